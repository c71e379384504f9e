"""Frames of a video file: some of them, resized, as uint8 RGB; whatever is wrong with the file is a sentence."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropfold.data_scripts.schemas.video_schema import frame_size
from dropfold.data_scripts.work.errors import SchemaError, VideoError

SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip
Sampling = Literal["first", "uniform", "tednet"]


@dataclass(kw_only=True)
class Reading:
    """Which frames of each video are kept, and in which size."""

    frames: int = 16
    """The most frames of a clip; a shorter video keeps its length."""
    size: str = "160x120"
    """Width x height in pixels; the aspect ratio of the video is not kept."""
    sampling: Sampling = "uniform"
    """first: the first frames. uniform: the middles of equal parts. tednet: at random, kept in their order."""
    every: int = 1
    """Only each such frame of the video counts (3: every third)."""
    seed: int = 0
    """Of random sampling and random folds."""
    workers: int = 0
    """Processes that decode; 0: one a core."""

    def checked(self) -> tuple[int, int]:
        """`(width, height)`; an error if a number is out of range."""
        for name in ("frames", "every"):
            if getattr(self, name) < 1:
                raise SchemaError(f"--{name} is {getattr(self, name)}, expected at least 1.")
        return frame_size(self.size)


def sample(count: int, frames: int, sampling: Sampling, seed: int) -> list[int]:
    """Ascending numbers of the frames to keep of `count`: all of them where there are no more than `frames`."""
    if count <= frames or sampling == "first":
        return list(range(min(count, frames)))
    if sampling == "uniform":
        return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]
    return sorted(random.Random(seed).sample(range(count), frames))


def pyav() -> Any:
    """The library that decodes videos."""
    try:
        import av
    except ImportError:
        raise VideoError(
            "decoding videos needs PyAV, which is not installed: pip install -e '.[video]'."
        ) from None
    return av


def read_clip(path: Path, name: str, reading: Reading) -> np.ndarray:
    """`[L, H, W, 3]` uint8 with 1 <= L <= reading.frames.

    Random sampling depends on the seed and `name` alone. Where the number of frames matters the video is decoded
    twice: containers state it wrongly or not at all, and its frames do not fit into memory.
    """
    width, height = reading.checked()
    if reading.sampling == "first":
        wanted = set(range(reading.frames))
    else:
        count = sum(1 for _ in _decoded(path, reading.every))
        seed = zlib.crc32(f"{reading.seed} {name}".encode())
        wanted = set(sample(count, reading.frames, reading.sampling, seed))
    found = []
    for number, frame in enumerate(_decoded(path, reading.every)):
        if number in wanted:
            found.append(_picture(frame, width, height))
        if len(found) == len(wanted):
            break
    if not found:
        raise VideoError(f"{path} holds no frame that can be decoded.")
    return np.stack(found)


def decode(path: Path, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Every frame of a video, `[L, H, W, channels]` uint8; `size` is (height, width), one channel is gray."""
    height, width = size
    found = [_picture(frame, width, height, channels) for frame in _decoded(Path(path), 1)]
    if not found:
        raise VideoError(f"{path} holds no frame that can be decoded.")
    return np.stack(found)


def _picture(frame: Any, width: int, height: int, channels: int = 3) -> np.ndarray:
    """[H, W, C], upright: a phone held upright states a turn of its pictures."""
    quarters = round(frame.rotation / 90) % 4
    if quarters % 2:
        width, height = height, width
    # Area averaging: each pixel of a shrunk frame sees all that lie under it.
    form = "rgb24" if channels == 3 else "gray"
    found = frame.to_ndarray(format=form, width=width, height=height, interpolation="AREA")
    return np.rot90(found.reshape(height, width, channels), quarters)


def _decoded(path: Path, every: int) -> Iterator[Any]:
    """Every so many frames; an error if the file is no video, or stops well before the end that it states."""
    av = pyav()
    if not path.is_file():
        raise VideoError(f"{path} is not there.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty.")
    count, first, last = 0, None, None
    try:
        with av.open(str(path.absolute())) as container:  # else `a:b.avi` is of a protocol a
            if not container.streams.video:
                raise VideoError(f"{path} holds no moving pictures, only sound or text.")
            stream = container.streams.video[0]
            frames_in_header, seconds = stream.frames, (container.duration or 0) / av.time_base
            if frames_in_header and stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            for frame in container.decode(stream):
                if count % every == 0:
                    yield frame
                count, last = count + 1, frame.time
                first = last if first is None else first
    except VideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path} cannot be decoded after {count} frames ({reason}).") from None
    shown = 0.0 if first is None or last is None else last - first
    # Frames missing, and time too: a clip cut without encoding states frames before its start, an AVI repeated ones.
    if frames_in_header and count < 0.9 * frames_in_header and (shown < 0.9 * seconds or not seconds):
        raise VideoError(f"{path} stops after {count} of {frames_in_header} frames (truncated?).")
    # Sound may outlast the pictures a little: only half of the stated time missing is a fault.
    if not frames_in_header and last is not None and shown < 0.5 * seconds - 1:
        raise VideoError(f"{path} stops after {shown:.1f} of {seconds:.1f} s (truncated?).")
