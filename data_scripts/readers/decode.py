"""Frames of a video file: some of them, resized, as uint8 RGB; whatever is wrong with the file is a sentence.

Decoders are C code, and some damaged files crash or stall them: a file is decoded in a process of its own, in bounded time
and memory. Packets that cannot be decoded cost their frames alone, which is said in a note.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dropfold.data_scripts.readers.containers.matroska import note_damage
from dropfold.data_scripts.readers.containers.ogg import Pages, read_pages
from dropfold.data_scripts.schemas.video_schema import frame_size
from dropfold.data_scripts.work import isolate
from dropfold.data_scripts.work.errors import SchemaError, VideoError

SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip
Sampling = Literal["first", "uniform", "tednet"]
MOST_PIXELS = 1 << 26  # of a picture: 8,192 x 8,192
SECONDS, SECONDS_PER_MEGABYTE = 6.0, 60.0  # of decoding a file
BYTES_TO_DECODE = 4 << 30
DEFAULT_PIXELS = 5_000_000  # what being the default stream counts for in ffmpeg's choice
MOST_FAULTS = 1000  # packets in a row that cannot be read before a file is given up
# Decoders that compare checksums inside a file. What they find differs is shown all the same, and said in the log alone.
COMPARING = ("apng", "ffv1", "flashsv", "flashsv2", "hevc", "png", "vvc")
DIFFERS = re.compile("CRC mismatch|mismatching (checksum|crc|md5)|Zlib resync", re.IGNORECASE)


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

    def options(self) -> dict[str, Any]:
        """The fields of a reading alone, by which another process makes it anew."""
        return {field.name: getattr(self, field.name) for field in fields(Reading)}


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


def read_clip(path: Path, name: str, reading: Reading, notes: list[str] | None = None) -> np.ndarray:
    """`[L, H, W, 3]` uint8 with 1 <= L <= reading.frames.

    Random sampling depends on the seed and `name` alone. Where the number of frames matters the video is decoded
    twice: containers state it wrongly or not at all, and its frames do not fit into memory. notes: gets a sentence if
    packets were lost.
    """
    reading.checked()
    pyav()
    return _decode_apart(path, notes, read_clip_here, path, name, reading.options())


def read_clip_here(path: str | Path, name: str, reading: Reading | dict[str, Any]) -> dict[str, np.ndarray]:
    """As `read_clip`, in this process: {"frames": ..., "notes": ...}."""
    path = Path(path)
    reading = Reading(**reading) if isinstance(reading, dict) else reading
    width, height = reading.checked()
    notes: list[str] = []
    if reading.sampling == "first":
        wanted = set(range(reading.frames))
    else:
        count = sum(1 for _ in _decoded(path, reading.every, notes))
        seed = zlib.crc32(f"{reading.seed} {name}".encode())
        wanted = set(sample(count, reading.frames, reading.sampling, seed))
    found: list[np.ndarray] = []
    frames = _decoded(path, reading.every, notes if reading.sampling == "first" else [])
    with contextlib.closing(frames):
        for number, frame in enumerate(frames):
            if number in wanted:
                found.append(_picture(frame, width, height))
            if len(found) == len(wanted):
                break
    return _stack(path, found, notes)


def decode(
    path: Path, size: tuple[int, int], channels: int = 3, notes: list[str] | None = None
) -> np.ndarray:
    """Every frame of a video, `[L, H, W, channels]` uint8; `size` is (height, width), one channel is gray."""
    pyav()
    return _decode_apart(path, notes, _decode_here, path, *size, channels)


def _decode_here(path: str, height: int, width: int, channels: int) -> dict[str, np.ndarray]:
    notes: list[str] = []
    found = [_picture(frame, width, height, channels) for frame in _decoded(Path(path), 1, notes)]
    return _stack(Path(path), found, notes)


def _stack(path: Path, found: list[np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    if not found:
        raise VideoError(f"{path} holds no frame that can be decoded.")
    return {"frames": np.stack(found), "notes": np.array(notes, dtype=str)}


def _decode_apart(path: Path, notes: list[str] | None, function: Any, *arguments: Any) -> np.ndarray:
    """The frames, decoded in another process."""
    path = Path(path)
    _check_file(path)
    try:
        found = isolate.call(
            function, *arguments, seconds=seconds_to_decode(path), memory=memory_to_decode(), notes=notes
        )
    except isolate.Crash as crash:
        raise VideoError(f"{path} cannot be decoded ({crash}).") from None
    return found["frames"]


def seconds_to_decode(path: Path) -> float:
    """The longest that decoding a file may take."""
    return SECONDS + SECONDS_PER_MEGABYTE * path.stat().st_size / 1e6


def memory_to_decode() -> int:
    """The most bytes that decoding a file may take."""
    return max(min(BYTES_TO_DECODE, isolate.available_memory()), 1 << 30)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise VideoError(f"{path} is not there.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty.")


def _picture(frame: Any, width: int, height: int, channels: int = 3) -> np.ndarray:
    """[H, W, C], as players show it: a phone's file states how its pictures are turned or mirrored."""
    quarters, mirrored = _orientation(frame)
    if quarters % 2:
        width, height = height, width
    # Area averaging: each pixel of a shrunk frame sees all that lie under it.
    form = "rgb24" if channels == 3 else "gray"
    found = frame.to_ndarray(format=form, width=width, height=height, interpolation="AREA")
    found = np.rot90(found.reshape(height, width, channels), quarters)
    return np.ascontiguousarray(found[::-1] if mirrored else found)


def _orientation(frame: Any) -> tuple[int, bool]:
    """Quarter turns counterclockwise, after which the picture is flipped upside down or not: what ffmpeg does with the
    display matrix (a, b, u; c, d, v; x, y, w), which sends a pixel (p, q) to (a p + c q, b p + d q)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = (float(one) for one in np.frombuffer(bytes(matrix), np.int32)[:5])
    mirrored = a * d - b * c < 0
    wide, high = math.hypot(a, c), math.hypot(b, d)
    if not wide or not high:
        return 0, False
    clockwise = math.degrees(math.atan2(b / high, a / wide))
    return round((clockwise if mirrored else -clockwise) / 90) % 4, mirrored


def _decoded(path: Path, every: int, notes: list[str]) -> Generator[Any]:
    """Every so many frames; an error if the file is no video, or stops well before the end that it states."""
    av = pyav()
    _check_file(path)
    count, lost, shown, last = 0, 0, 0.0, None
    damaged_at: list[int] = []
    matroska = False
    try:
        with av.open(str(path.absolute())) as container:  # else `a:b.avi` is of a protocol a
            stream = _moving_pictures(path, container)
            matroska = container.format.name.startswith("matroska")
            frames_in_header, seconds = stream.frames, (container.duration or 0) / av.time_base
            if frames_in_header and stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            step = 1 / float(stream.average_rate) if stream.average_rate else 0.0
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS), "err_detect": "crccheck"}
            for frame in _frames_of(container, stream, damaged_at):
                if frame is None or frame.is_corrupt:
                    lost += 1
                    continue
                if count % every == 0:
                    yield frame
                count += 1
                # A clock may start anew or stand still: only the time between two frames counts.
                if frame.time is not None and last is not None:
                    shown += max(frame.time - last, 0.0)
                elif last is not None or frame.time is None:
                    shown += step
                last = frame.time if frame.time is not None else last
    except VideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path} cannot be decoded after {count} frames ({reason}).") from None
    finally:
        if lost and count:
            notes.append(
                f"{path}: {lost} packets or frames are damaged and left out, {count} frames are kept"
            )
        if matroska and count:
            notes += note_damage(path, damaged_at)
    # Frames missing, and time too: a clip cut without encoding states frames before its start, an AVI repeated ones.
    present = count + min(lost, count)  # what is damaged is no cut, unless most is
    if frames_in_header and present < 0.9 * frames_in_header and (shown < 0.9 * seconds or not seconds):
        raise VideoError(f"{path} stops after {count} of {frames_in_header} frames (truncated?).")
    # Sound may outlast the pictures a little: only half of the stated time missing is a fault.
    if not frames_in_header and count and shown < 0.5 * seconds - 1:
        raise VideoError(f"{path} stops after {shown:.1f} of {seconds:.1f} s (truncated?).")


def _moving_pictures(path: Path, container: Any) -> Any:
    """The video stream that ffmpeg would show: the largest or the default one, and no cover picture."""
    from av.stream import Disposition

    streams = container.streams.video
    if not streams:
        raise VideoError(f"{path} holds no moving pictures, only sound or text.")
    moving = [one for one in streams if not one.disposition & Disposition.attached_pic]
    if not moving:
        raise VideoError(f"{path} holds no moving pictures, only a cover.")
    moving = [one for one in moving if one.codec_context is not None]
    if not moving:
        raise VideoError(f"{path} cannot be decoded: no decoder is known for its pictures.")
    return max(
        moving,
        key=lambda one: one.width * one.height + DEFAULT_PIXELS * bool(one.disposition & Disposition.default),
    )


def _frames_of(container: Any, stream: Any, damaged_at: list[int]) -> Iterator[Any]:
    """The frames of a stream, and None for each packet that cannot be decoded and each frame whose checksum differs.
    damaged_at: takes the first byte of each such packet."""
    av = pyav()
    codec = stream.codec_context
    codec.copy_opaque = True  # a frame carries the number of its packet
    pages = container.format.name == "ogg"
    with _listening(codec.name in COMPARING) as differs:
        read = read_pages(Path(container.name)) if pages else Pages({}, [])
        packets = _look_ahead(container.demux(stream), read)
        faults = 0
        damaged: set[int] = set()  # packets
        # Lossless decoders conceal nothing: what is predicted from a damaged picture is damaged, up to the next key frame.
        # What follows a lost page of Ogg is, too.
        predicts = pages or not codec.codec.lossy or codec.name.startswith("flashsv")
        spoilt = False
        while faults < MOST_FAULTS:
            try:
                number, packet, cut, behind = next(packets, (0, None, False, False))
            except av.error.FFmpegError:  # nothing can be read behind it; the decoder may still hold frames
                yield None
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in codec.decode(None):
                        yield None if frame.opaque in damaged else frame
                break
            if behind:
                spoilt = True
                yield None
            if packet is None:
                break
            differs()  # what was said until now is of the packet before
            packet.opaque = number
            spoilt = spoilt and not packet.is_keyframe
            try:
                frames = packet.decode()
            except (
                av.error.InvalidDataError,
                av.error.UnknownError,
                av.error.PatchWelcomeError,
                av.error.BugError,
                av.error.ExternalError,
            ):
                faults += 1
                damaged_at.append(packet.pos or 0)
                spoilt = spoilt or predicts
                yield None
                continue
            if differs() or spoilt or cut:
                damaged.add(number)
                damaged_at.append(packet.pos or 0)
                spoilt = predicts
            faults = 0 if frames else faults
            for frame in frames:
                yield None if frame.opaque in damaged else frame


def _look_ahead(packets: Iterable[Any], pages: Pages) -> Iterator[tuple[int, Any, bool, bool]]:
    """Number, packet, whether the next break of its stream cuts it, and whether one stands before it; at the end a packet
    None."""
    before, number, passed, behind, own = None, 0, 0, False, set[bytes | None]()
    for packet in itertools.chain(packets, [None]):
        at = math.inf if packet is None else packet.pos
        if packet is not None:
            own.add(pages.stream_of.get(packet.pos))  # one, or in a chain of videos one after another
        breaks = [one for one in pages.breaks if one.stream in own]
        now = passed if at is None else sum(one.at <= at for one in breaks)
        cut = any(one.cut for one in breaks[passed:now])
        if before is not None:
            yield number, before, cut, behind
            number += 1
        before, behind, passed = packet, now > passed, now
    yield number, None, False, behind


@contextlib.contextmanager
def _listening(compared: bool) -> Iterator[Callable[[], bool]]:
    """Hear what is said of checksums where any are compared; the function tells whether one differed since it was last
    asked."""
    av = pyav()
    if not compared:
        yield lambda: False
        return
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as said:

            def differs() -> bool:
                words = " ".join(text for _, _, text in said)
                said.clear()
                return DIFFERS.search(words) is not None

            yield differs
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)
