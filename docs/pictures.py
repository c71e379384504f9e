"""`python docs/pictures.py`: draws docs/noise.png, the three noises on a chair of the shipped data."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dropfold.data_scripts.schemas import shape_schema
from dropfold.train.tasks.clouds import dropped_share

HERE = Path(__file__).parent
KEPT, FALLEN = "#1668a8", "#e8743b"


def main() -> None:
    data = shape_schema.read(HERE.parent / "data/furniture.h5")
    points = data.points[np.flatnonzero(data.label == data.class_names.index("chair"))[0]]
    figure = plt.figure(figsize=(12, 4.2))
    titles = {
        "feat": "DropFeat: single features",
        "point": "DropPoint: single points",
        "cluster": "DropCluster: points with their neighbourhood",
    }
    for i, (level, title) in enumerate(titles.items(), 1):
        share = dropped_share(points, level, 0.3, 64)
        axes = figure.add_subplot(1, 3, i, projection="3d")
        kept, lost = (matplotlib.colors.to_rgb(color) for color in (KEPT, FALLEN))
        color = np.outer(1 - share, kept) + np.outer(share, lost)
        axes.scatter(points[:, 0], -points[:, 2], points[:, 1], c=color, s=7, depthshade=False, linewidths=0)
        axes.set_title(title, fontsize=12, y=1.0)
        axes.set_box_aspect(np.ptp(points[:, [0, 2, 1]], axis=0), zoom=1.25)
        axes.view_init(elev=14, azim=-62)
        axes.set_axis_off()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.92, wspace=0)
    figure.savefig(HERE / "noise.png", dpi=110)
    print(HERE / "noise.png")


if __name__ == "__main__":
    main()
