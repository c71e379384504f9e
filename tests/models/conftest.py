"""Fixtures of the networks' tests."""

import pytest

from dropfold.models.clouds import pointnet2, pointnet2_segmentation
from dropfold.models.clouds.pointnet2 import Level


def shrunk(levels):
    """The levels with fewer centres and smaller groups, so that clouds of 60 points do and the padded form is small."""
    return tuple(
        Level(
            max(6, level.centres // 32),
            tuple(scale._replace(radius=2 * scale.radius, k=min(scale.k, 6)) for scale in level.scales),
        )
        for level in levels
    )


@pytest.fixture
def small_groups(monkeypatch):
    """PointNet++ with few centres and small groups."""
    for table in (pointnet2.CLASSIFICATION, pointnet2_segmentation.PARTS, pointnet2_segmentation.SCENES):
        for grouping, levels in dict(table).items():
            monkeypatch.setitem(table, grouping, shrunk(levels))
