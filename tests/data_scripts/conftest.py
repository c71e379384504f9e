"""The furniture that ships, and small real videos, encoded here."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.schemas import shape_schema


@pytest.fixture(scope="session")
def furniture():
    return shape_schema.read(Path(__file__).parents[2] / "data/furniture.h5")


def pictures(count, width=64, height=48, seed=0):
    """[count, H, W, 3]: a bright blob that goes round before a gradient of colour of its seed."""
    y, x = np.mgrid[:height, :width]
    base = np.random.default_rng(seed).uniform(20, 90, 3)
    frames = np.empty((count, height, width, 3))
    for i in range(count):
        angle = 2 * np.pi * i / max(count, 2) + seed
        blob = np.exp(
            -(
                ((x / width - 0.5 - 0.3 * np.cos(angle)) ** 2 + (y / height - 0.5 - 0.3 * np.sin(angle)) ** 2)
                / 0.02
            )
        )
        frames[i] = base * (0.5 + x / width)[..., None] + blob[..., None] * np.array([150, 130, 90])
    return frames.clip(0, 255).astype(np.uint8)


def encode(path, frames, codec="mpeg4", pixels="yuv420p", rate=24, options=None):
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if not options:
            stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def packet_places(path):
    """(first byte, bytes) of each packet of the pictures."""
    import av

    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.fixture(scope="session")
def small_video(tmp_path_factory):
    """One encoded video of 20 frames; its bytes."""
    return encode(tmp_path_factory.mktemp("video") / "a.avi", pictures(20)).read_bytes()
