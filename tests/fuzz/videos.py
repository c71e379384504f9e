"""Small videos of black and white fields, in the containers and codecs that PyAV writes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers.decode import Reading, read_clip
from tests.fuzz.case import Arrays, Format, Random, chance, pick

WIDTH, HEIGHT, FIELD = 64, 48, 16
# (codec, pixels, options) that each container holds; at these rates a field is within 16 of what it was.
H264, MPEG4 = (
    ("libx264", "yuv420p", {"crf": "10", "preset": "ultrafast"}),
    ("mpeg4", "yuv420p", {"qscale": "2"}),
)
MJPEG, PNG = ("mjpeg", "yuvj420p", {"qscale": "2"}), ("png", "rgb24", {})
CODECS = {
    ".mp4": [H264, MPEG4],
    ".mov": [MPEG4, MJPEG, PNG],
    ".mkv": [H264, MPEG4, ("ffv1", "yuv444p", {})],
    ".avi": [MPEG4, MJPEG, ("huffyuv", "yuv422p", {}), ("ffv1", "yuv420p", {})],
    ".gif": [("gif", "rgb8", {})],
}


def make_video(random: Random, path: Path) -> Arrays:
    """The middle of each field, 0 or 255: [frames, fields down, fields across]."""
    import av

    fields = random.integers(0, 2, (int(random.integers(2, 9)), HEIGHT // FIELD, WIDTH // FIELD))
    fields[0, 0] = 0, 1, 0, 1  # a picture that differs from the ones after it
    codec, pixels, options = pick(random, *CODECS[path.suffix])
    container = {"format": path.suffix[1:].replace("mkv", "matroska")}
    with av.open(str(path), "w", **container) as out:
        if chance(random, 0.3):
            out.metadata["title"] = "a clip"
        stream = out.add_stream(codec, rate=Fraction(pick(random, 10, 24, 25, 30)), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.gop_size = pick(random, 1, 4, 12)
        for field in fields:
            picture = np.repeat(np.kron(field * 255, np.ones((FIELD, FIELD)))[..., None], 3, 2).astype(
                np.uint8
            )
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return {"fields": fields * 255.0}


def read_video(path: Path) -> Arrays:
    frames = read_clip(path, path.name, Reading(frames=16, size=f"{WIDTH}x{HEIGHT}"), notes=[]).astype(
        np.float64
    )
    middles = slice(4, -4)
    fields = frames.reshape(len(frames), HEIGHT // FIELD, FIELD, WIDTH // FIELD, FIELD, 3)
    return {"fields": fields[:, :, middles, :, middles].mean((2, 4, 5))}


FORMATS = [Format(suffix[1:], suffix, make_video, (read_video,), tolerance=24) for suffix in CODECS]
