"""Pages of Ogg that are missing or damaged, of a stream among others."""

from fractions import Fraction

import numpy as np
import pytest

from dropfold.data_scripts.readers.containers.ogg import Break, read_pages
from dropfold.data_scripts.readers.decode import Reading, read_clip
from tests.data_scripts.conftest import pictures

av = pytest.importorskip("av")


def make_page(stream, number, sizes, last=False):
    """A page whose checksum is made bit by bit, as RFC 3533 has it: the polynomial 0x04c11db7, from the highest bit on."""
    head = b"OggS\0" + bytes([4 * last]) + bytes(8) + stream + number.to_bytes(4, "little")
    rest = bytes([len(sizes), *sizes]) + bytes(range(256)) * 10
    rest = rest[: 1 + len(sizes) + sum(sizes)]
    register = 0
    for byte in head + bytes(4) + rest:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x104C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
    return head + register.to_bytes(4, "little") + rest


def test_breaks_are_of_the_stream_that_lacks_a_page(tmp_path):
    video, sound = b"VIDE", b"SOUN"
    whole = [
        make_page(video, 0, [30]),
        make_page(sound, 0, [20]),
        make_page(video, 1, [40, 255]),  # its packet goes on in the video's next page
        make_page(sound, 1, [50]),
        make_page(video, 2, [60]),
        make_page(sound, 2, [9, 9]),
        make_page(video, 3, [70], last=True),
        make_page(sound, 3, [80], last=True),
    ]
    places = np.cumsum([0, *map(len, whole)]).tolist()
    path = tmp_path / "a.ogv"

    def breaks(pages):
        path.write_bytes(b"".join(pages))
        return read_pages(path).breaks

    assert breaks(whole) == []
    assert read_pages(path).stream_of == dict(zip(places, [video, sound] * 4, strict=False))
    for lost, stream, cut in ((3, sound, False), (4, video, True), (5, sound, False), (2, video, False)):
        gap = len(whole[lost])
        assert breaks(whole[:lost] + whole[lost + 1 :]) == [Break(stream, places[lost + 2] - gap, cut)]
        for byte in (0, 5, 14, 18, 23, 26, 27, gap - 1):
            damaged = bytearray(whole[lost])
            damaged[byte] ^= 1
            found = breaks([*whole[:lost], bytes(damaged), *whole[lost + 1 :]])
            assert found == [Break(stream, places[lost + 2], cut)], (lost, byte)
    assert breaks([*whole[:7], whole[7][:-5]]) == [Break(sound, places[8] - 5, False)]
    assert breaks([*whole[:4], b"between", *whole[4:]]) == []


def encode_with_sound(path, frames):
    """VP8 and FLAC, in pages by turns: a key frame in five, and each frame in a page of its own."""
    with av.open(str(path), "w", options={"page_duration": "1"}) as container:
        video = container.add_stream("libvpx", rate=Fraction(20), options={"g": "5"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        sound = container.add_stream("flac", rate=8000, layout="mono")
        noise = np.random.default_rng(0).integers(-(2**12), 2**12, (1, 400 * len(frames))).astype(np.int16)
        for i, frame in enumerate(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            heard = av.AudioFrame.from_ndarray(noise[:, 400 * i : 400 * (i + 1)], format="s16", layout="mono")
            heard.sample_rate, heard.pts = 8000, 400 * i
            container.mux(sound.encode(heard))
        container.mux(video.encode())
        container.mux(sound.encode())
    return path


def test_only_the_pictures_own_pages_cost_frames(tmp_path):
    if "libvpx" not in av.codecs_available or "flac" not in av.codecs_available:
        pytest.skip("this build of PyAV has no VP8 or no FLAC")
    path = encode_with_sound(tmp_path / "a.ogv", pictures(20))

    def read():
        notes = []
        clip = read_clip(path, "a", Reading(frames=99, size="64x48"), notes)
        return [frame.tobytes() for frame in clip], notes

    whole, (true, notes) = path.read_bytes(), read()
    assert (len(true), notes) == (20, [])
    streams = list(read_pages(path).stream_of.items())
    ends = [at for at, _ in streams[1:]] + [len(whole)]
    with av.open(str(path)) as container:
        video = dict(streams)[next(packet.pos for packet in container.demux(video=0) if packet.size)]
    tried = {True: 0, False: 0}
    for i, ((at, stream), end) in enumerate(zip(streams, ends, strict=True)):
        if i < 6 or sum(one == stream for _, one in streams[i:]) < 2:  # headers, and what ends a stream
            continue
        if tried[stream == video] == 2:
            continue
        tried[stream == video] += 1
        damaged = whole[: end - 1] + bytes([whole[end - 1] ^ 1]) + whole[end:]
        for content in (whole[:at] + whole[end:], damaged):
            path.write_bytes(content)
            found, notes = read()
            if stream == video:
                assert set(found) <= set(true)
                assert 10 <= len(found) < 20
                assert f"damaged and left out, {len(found)} frames are kept" in notes[0]
            else:
                assert (found, notes) == (true, []), i
    assert tried == {True: 2, False: 2}
