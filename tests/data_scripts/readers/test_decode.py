"""Videos of several codecs and containers, encoded here and read back; broken ones named."""

import itertools
import os
import struct
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.readers import decode
from dropfold.data_scripts.readers.decode import Reading, VideoError, read_clip, sample
from dropfold.data_scripts.videos import own_videos
from dropfold.data_scripts.work.errors import SchemaError
from tests.data_scripts.conftest import encode, packet_places, pictures

av = pytest.importorskip("av")

KINDS = [
    ("a.mp4", "libx264", "yuv420p"),
    ("a.mkv", "libx264", "yuv444p"),
    ("a.avi", "mpeg4", "yuv420p"),
    ("a.mov", "mjpeg", "yuvj420p"),
    ("a.mpg", "mpeg2video", "yuv420p"),
    ("a.webm", "libvpx-vp9", "yuv420p"),
    ("a.wmv", "wmv2", "yuv420p"),
    ("b.avi", "ffv1", "bgr0"),
]


def all_frames(**changes):
    return Reading(**{"frames": 99, "size": "64x48", **changes})


@pytest.mark.parametrize(("name", "codec", "pixels"), KINDS, ids=[f"{n[2:]}-{c}" for n, c, _ in KINDS])
def test_what_is_encoded_is_read(name, codec, pixels, tmp_path):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    given = pictures(18)
    found = read_clip(encode(tmp_path / name, given, codec, pixels), name, all_frames())
    assert found.shape == given.shape
    assert found.dtype == np.uint8
    # Chroma of half size and quantisation: a few levels in the mean; without loss two for the change of colour space.
    assert np.abs(found.astype(int) - given).mean() < (1 if codec == "ffv1" else 6)
    # Each frame is nearest to its own: none is lost, doubled or out of order.
    apart = np.abs(found[:, None].astype(int) - given[None]).mean((2, 3, 4))
    assert apart.argmin(1).tolist() == list(range(18))


def test_resizing_averages(tmp_path):
    """Half the size is the mean of 2 x 2 pixels, to within the rounding of two steps."""
    given = pictures(4)
    path = encode(tmp_path / "a.avi", given, "ffv1", "bgr0")
    found = read_clip(path, "a", all_frames(size="32x24"))
    mean = given.reshape(4, 24, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(found - mean).max() <= 2
    gray = decode.decode(path, (48, 64), 1)
    assert gray.shape == (4, 48, 64, 1)


IDENTITY = (1, 0, 0, 1)
# The matrix (a, b, c, d) of a track, and what ffmpeg's filters hflip, vflip and transpose make of the picture [T, H, W, 3]
# for it (fftools/ffmpeg_filter.c): players show the same.
SHOWN = {
    IDENTITY: lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1, (1, 2)),  # transpose=clock, a phone held upright
    (-1, 0, 0, -1): lambda x: x[:, ::-1, ::-1],  # hflip, vflip
    (0, -1, 1, 0): lambda x: np.rot90(x, 1, (1, 2)),  # transpose=cclock
    (-1, 0, 0, 1): lambda x: x[:, :, ::-1],  # hflip, a phone's front camera
    (1, 0, 0, -1): lambda x: x[:, ::-1],  # vflip
    (0, 1, 1, 0): lambda x: x.swapaxes(1, 2),  # transpose=cclock_flip
    (0, -1, -1, 0): lambda x: np.rot90(x, -1, (1, 2))[:, ::-1],  # transpose=clock_flip
}


def state_orientation(path, matrix):
    """Write another matrix into the header of the only track of an MP4."""

    def packed(a, b, c, d):
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 0x40000000)

    content = path.read_bytes()
    place = content.index(packed(*IDENTITY), content.index(b"tkhd"))
    path.write_bytes(content[:place] + packed(*matrix) + content[place + 36 :])
    return path


@pytest.mark.parametrize("matrix", SHOWN, ids=str)
def test_a_picture_is_turned_and_mirrored_as_its_file_states(matrix, tmp_path):
    given = pictures(3)
    path = state_orientation(encode(tmp_path / "a.mp4", given, "libx264"), matrix)
    expected = SHOWN[matrix](given)
    height, width = expected.shape[1:3]
    found = read_clip(path, "a", all_frames(size=f"{width}x{height}"))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6
    np.testing.assert_array_equal(decode.decode(path, (height, width)), found)


def mux(path, *streams):
    """A container of several streams: (pictures, codec, pixels, disposition)."""
    with av.open(str(path), "w") as container:
        opened = []
        for frames, codec, pixels, disposition in streams:
            stream = container.add_stream(codec, rate=24)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pixels
            stream.disposition = disposition
            opened.append((stream, frames))
        for stream, frames in opened:
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("disposition", [0, 1024], ids=["a picture", "a cover"])
def test_a_cover_before_the_video_is_not_the_video(disposition, tmp_path):
    """Programs that write music and films put a picture first, and some do not say that it is a cover."""
    given, cover = pictures(12), np.full((1, 64, 64, 3), 200, np.uint8)
    streams = [(cover, "mjpeg", "yuvj420p", disposition), (given, "libx264", "yuv420p", 1)]
    found = read_clip(mux(tmp_path / "a.mkv", *streams), "a", all_frames())
    assert found.shape == given.shape
    assert np.abs(found.astype(int) - given).mean() < 6


# --- clocks ------------------------------------------------------------------------------------------------------


def test_a_clock_that_starts_anew_loses_nothing(tmp_path):
    """Two recordings, one behind the other, as cameras and `cat` write them: times run from 0 twice."""
    first, second = pictures(30, seed=1), pictures(20, seed=2)
    content = b"".join(
        encode(tmp_path / f"{i}.ts", frames, "mpeg2video").read_bytes()
        for i, frames in enumerate((first, second))
    )
    (tmp_path / "a.ts").write_bytes(content)
    notes = []
    found = read_clip(tmp_path / "a.ts", "a", all_frames(), notes)
    assert len(found) == 50
    assert np.abs(found.astype(int) - np.concatenate([first, second])).mean() < 8


@pytest.mark.parametrize(("name", "codec"), [("a.m4v", "mpeg4"), ("a.mpeg", "mpeg2video")])
def test_frames_without_times_are_read(name, codec, tmp_path):
    """A bare stream of packets, without a container that says when each is shown."""
    given, packets = pictures(20), b""
    with av.open(str(tmp_path / "b.avi"), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in [*(av.VideoFrame.from_ndarray(one, format="rgb24") for one in given), None]:
            packets += b"".join(bytes(packet) for packet in stream.encode(frame))
    (tmp_path / name).write_bytes(packets)
    assert len(read_clip(tmp_path / name, "a", all_frames())) == 20


def test_uneven_times_are_read(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i, picture in enumerate(pictures(24)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i * i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(read_clip(tmp_path / "a.mkv", "a", all_frames())) == 24


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["first", "uniform", "tednet"])
@pytest.mark.parametrize(("count", "frames"), [(1, 1), (5, 6), (6, 6), (7, 6), (1492, 6), (100, 99)])
def test_samples_ascend_and_lie_inside(sampling, count, frames):
    found = sample(count, frames, sampling, 0)
    assert len(found) == min(count, frames)
    assert found == sorted(set(found))
    assert found[0] >= 0
    assert found[-1] < count
    if sampling == "first" or count <= frames:
        assert found == list(range(min(count, frames)))


def test_uniform_samples_are_the_middles_of_equal_parts():
    assert sample(60, 6, "uniform", 0) == [5, 15, 25, 35, 45, 55]
    assert max(np.diff(sample(1000, 7, "uniform", 0))) - min(np.diff(sample(1000, 7, "uniform", 0))) <= 1


def test_tednets_samples_are_uniform_over_the_video():
    """Means of the i-th of k numbers drawn without replacement from 0 .. n - 1: (i + 1) (n + 1) / (k + 1) - 1."""
    drawn = np.array([sample(100, 6, "tednet", seed) for seed in range(2000)])
    expected = np.arange(1, 7) * 101 / 7 - 1
    error = drawn.std(0) / np.sqrt(2000)
    assert (np.abs(drawn.mean(0) - expected) < 4 * error).all()


@pytest.mark.parametrize("sampling", ["first", "uniform", "tednet"])
def test_the_sampled_frames_are_read(sampling, tmp_path):
    given = pictures(20)
    path = encode(tmp_path / "a.avi", given, "ffv1", "bgr0")
    found = read_clip(path, "name", all_frames(frames=5, sampling=sampling, every=2))
    nearest = np.abs(found[:, None].astype(int) - given[None]).mean((2, 3, 4)).argmin(1)
    assert len(nearest) == 5
    assert (nearest % 2 == 0).all()
    if sampling == "first":
        assert nearest.tolist() == [0, 2, 4, 6, 8]
    if sampling == "uniform":
        assert nearest.tolist() == [2, 6, 10, 14, 18]
    np.testing.assert_array_equal(
        found, read_clip(path, "name", all_frames(frames=5, sampling=sampling, every=2))
    )
    others = [read_clip(path, str(i), all_frames(frames=5, sampling=sampling, every=2)) for i in range(3)]
    assert any((other != found).any() for other in others) == (sampling == "tednet")


# --- broken videos -----------------------------------------------------------------------------------------------


def test_broken_videos_are_named(tmp_path, small_video):
    cases = {
        "empty.avi": (b"", "is empty"),
        "text.mp4": (
            b"this is no video, but a text that someone renamed\n" * 50,
            "cannot be decoded|no moving",
        ),
        "noise.mkv": (np.random.default_rng(0).bytes(5000), "cannot be decoded|no frame|no moving"),
        "cut.avi": (small_video[: len(small_video) // 2], r"stops after \d+ of 20 frames|cannot be decoded"),
        "head.avi": (small_video[:300], "cannot be decoded|stops after|no frame|no moving"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        for sampling in ("uniform", "first"):
            with pytest.raises(VideoError, match=message) as caught:
                read_clip(path, name, all_frames(sampling=sampling))
            assert str(path) in str(caught.value)
    with pytest.raises(VideoError, match="is not there"):
        read_clip(tmp_path / "none.avi", "none", all_frames())


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mjpeg"), ("a.mp4", "libx264")])
def test_broken_packets_cost_their_frames_alone(name, codec, tmp_path, capfd):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    given = pictures(30)
    path = encode(tmp_path / name, given, codec, pixels, options={"g": "1"})
    content = bytearray(path.read_bytes())
    for place, size in packet_places(path)[9:11]:
        content[place : place + size] = bytes(size)
    path.write_bytes(content)
    for sampling in ("uniform", "first"):
        notes = []
        found = read_clip(path, "a", all_frames(sampling=sampling), notes)
        kept = np.delete(given, [9, 10], axis=0)
        assert found.shape == kept.shape
        assert np.abs(found.astype(int) - kept).mean() < 8
        assert notes == [f"{path}: 2 packets or frames are damaged and left out, 28 frames are kept"]
    notes.clear()
    assert len(decode.decode(path, (48, 64), 1, notes)) == 28
    assert len(notes) == 1
    whole = encode(tmp_path / f"whole{path.suffix}", given, codec, pixels)
    assert len(read_clip(whole, "a", all_frames(), notes)) == 30
    assert len(notes) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options", "key"),
    [
        ("a.mkv", "ffv1", "yuv444p", {"level": "3", "slicecrc": "1"}, 1),
        ("b.mkv", "ffv1", "yuv444p", {"level": "3", "slicecrc": "1"}, 5),
        ("a.avi", "ffv1", "yuv420p", {}, 5),
        ("a.nut", "ffv1", "yuv420p", {"slices": "4"}, 5),
        ("a.mov", "png", "rgb24", {}, 1),
        ("a.apng", "apng", "rgb24", {}, 20),
        ("h.mkv", "libx265", "yuv420p", {"x265-params": "hash=1:log-level=none"}, 5),
    ],
)
def test_a_frame_whose_checksum_differs_is_left_out(name, codec, pixels, options, key, tmp_path, capfd):
    """One bit, anywhere in the pictures: every frame that is kept is one that was written."""
    path = encode(tmp_path / name, pictures(20), codec, pixels, options={"g": str(key), **options})
    notes, whole = [], path.read_bytes()
    true = [frame.tobytes() for frame in read_clip(path, "a", all_frames(), notes)]
    assert len(true) == 20
    assert not notes
    random, places = np.random.default_rng(0), packet_places(path)
    for packet in (7, 12, 18):
        start, size = places[packet]
        damaged = bytearray(whole)
        damaged[start + size // 2 + int(random.integers(size // 4))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        notes = []
        found = [frame.tobytes() for frame in read_clip(path, "a", all_frames(), notes)]
        lost = 20 - len(found)
        assert set(found) <= set(true)
        assert 1 <= lost <= key
        assert notes == [
            f"{path}: {lost} packets or frames are damaged and left out, {20 - lost} frames are kept"
        ]
    capfd.readouterr()


def test_a_page_of_ogg_whose_checksum_differs_is_left_out(tmp_path):
    """And what is predicted from it, up to the next key frame. The bit is behind the header of the page."""
    path = encode(tmp_path / "a.ogv", pictures(20), "libvpx", "yuv420p", options={"g": "5"})
    notes, whole = [], path.read_bytes()
    true = [frame.tobytes() for frame in read_clip(path, "a", all_frames(), notes)]
    assert (len(true), notes) == (20, [])
    random = np.random.default_rng(0)
    for page in sorted({start for start, _ in packet_places(path)})[:6]:
        at = page + 27 + whole[page + 26] + int(random.integers(20))  # behind the page's header
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        notes = []
        found = [frame.tobytes() for frame in read_clip(path, "a", all_frames(), notes)]
        assert set(found) <= set(true)
        assert 10 <= len(found) < 20
        assert f"damaged and left out, {len(found)} frames are kept" in notes[0]
    path.write_bytes(whole)
    for page in sorted({start for start, _ in packet_places(path)})[2:6]:
        for byte, bit in itertools.product((0, 3, 5, 14, 18, 22, 26, 27), (0, 6)):  # of the page's header
            damaged = bytearray(whole)
            damaged[page + byte] ^= 1 << bit
            path.write_bytes(damaged)
            notes = []
            try:
                found = [frame.tobytes() for frame in read_clip(path, "a", all_frames(), notes)]
            except VideoError as error:
                notes, found = [str(error)], []
            assert set(found) <= set(true), (page, byte, bit)
            assert notes or len(found) == 20, (page, byte, bit)


def test_a_picture_of_enormous_size_is_refused(tmp_path):
    """A few bytes that ask for gigabytes: an AVI's header tells the decoder the size."""
    path = encode(tmp_path / "a.avi", pictures(3), "rawvideo", "bgr24")
    content = path.read_bytes()
    place = content.index(struct.pack("<ii", 64, -48), content.index(b"strf"))
    path.write_bytes(content[:place] + struct.pack("<ii", 30_000, -30_000) + content[place + 8 :])
    with pytest.raises(VideoError, match=r"a\.avi (cannot be decoded|holds no frame|stops after)"):
        read_clip(path, "a", all_frames())


@pytest.mark.parametrize("how", ["abort", "hang"])
def test_a_decoder_that_crashes_or_hangs_is_the_files_fault(how, tmp_path, monkeypatch, small_video):
    (tmp_path / "a.avi").write_bytes(small_video)
    monkeypatch.setattr(decode, "SECONDS", 1.0)
    monkeypatch.setattr(decode, "read_clip_here", fall if how == "abort" else stall)
    with pytest.raises(VideoError, match=r"a\.avi cannot be decoded \(it (killed|takes longer than 1 s)"):
        read_clip(tmp_path / "a.avi", "a", all_frames())


def fall(*arguments):
    os.abort()


def stall(*arguments):
    time.sleep(60)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")]
)
def test_a_truncated_video_is_named(name, codec, tmp_path):
    path = encode(tmp_path / name, np.tile(pictures(24), (8, 1, 1, 1)), codec, options={"g": "8"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
    with pytest.raises(VideoError, match=r"cannot be decoded|stops after .*truncated"):
        read_clip(path, name, all_frames())


def test_a_clip_cut_without_encoding_is_whole(tmp_path):
    """From the last key frame before the cut on, with an edit list that hides what comes before the cut."""
    given = pictures(72)
    whole = encode(tmp_path / "whole.mp4", given, "libx264", options={"g": "72", "bf": "0"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        start = int(1 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copied
                target.mux(packet)
    found = read_clip(tmp_path / "cut.mp4", "cut", all_frames())
    assert found.shape[0] == 48
    assert np.abs(found.astype(int) - given[24:]).mean() < 6


def test_an_avi_that_repeats_frames_is_whole(tmp_path):
    """Frames at uneven times: the container counts the repeated ones, which hold nothing and decode to nothing."""
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i, picture in enumerate(pictures(8)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = 5 * i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "a.avi")) as container:
        assert container.streams.video[0].frames > 30
    found = read_clip(tmp_path / "a.avi", "a", all_frames())
    assert found.shape[0] == 8


def test_a_name_is_no_address(tmp_path, small_video, monkeypatch):
    (tmp_path / "scene:1.avi").write_bytes(small_video)
    monkeypatch.chdir(tmp_path)
    assert len(read_clip(Path("scene:1.avi"), "a", all_frames())) == 20


def test_sound_without_pictures_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no moving pictures"):
        read_clip(tmp_path / "a.mkv", "a", all_frames())


def test_wrong_wishes_are_said():
    for wish, message in (
        ({"frames": 0}, "--frames is 0"),
        ({"every": 0}, "--every is 0"),
        ({"size": "7"}, "--size is '7'"),
    ):
        with pytest.raises(SchemaError, match=message):
            all_frames(**wish).checked()


def test_without_pyav_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install -e '\.\[video\]'"):
        decode.decode(tmp_path / "clip.mp4", (4, 4))
    (tmp_path / "wave").mkdir()
    (tmp_path / "wave/1.mp4").write_bytes(b"frames")
    with pytest.raises(VideoError, match="decoding videos needs PyAV"):  # once, and not of every video
        own_videos.convert(own_videos.Options(source=tmp_path, out=tmp_path / "out.h5"))
