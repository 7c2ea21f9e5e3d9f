"""Frames of videos: which are taken, from any source, and what is refused."""

import base64
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from videos import SIZE, level, make_video, turned

from wings import WingsError
from wings.processing.image_limits import ImageLimits
from wings.processing.image_reader import load_image
from wings.processing.video_reader import count_frames, load_video
from wings.processing.video_sampling import VideoSampling, time_stamp

EIGHT = [1, 5, 9, 13, 16, 20, 24, 28]


def numbers_of(frames):
    """The numbers of frames that `make_video` made, by their grey levels."""
    return [round(np.asarray(load_image(frame.image)).mean() / 8) for frame in frames]


@pytest.fixture(scope="module")
def mp4():
    return make_video(keys=7)


@pytest.mark.parametrize(
    "kind",
    [
        {"codec": "libx264", "keys": 250}, {"codec": "mpeg4", "keys": 7},
        {"format": "webm", "codec": "libvpx-vp9"}, {"format": "avi", "codec": "mpeg4"},
        {"format": "matroska", "codec": "ffv1"}, {"format": "mpegts", "keys": 7},
        {"format": "gif", "codec": "gif", "pixels": "rgb8"},
    ],
    ids=lambda kind: f"{kind.get('format', 'mp4')} {kind.get('codec', 'libx264')}",
)  # fmt: skip
def test_the_frames_in_the_middle_of_equal_stretches_are_taken(kind):
    frames = load_video(make_video(**kind))
    assert numbers_of(frames) == EIGHT
    assert [frame.seconds for frame in frames] == pytest.approx([n / 10 for n in EIGHT])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_frames": 1}, [15]), ({"max_frames": 3}, [5, 15, 25]), ({"fps": 1}, [5, 15, 25]),
        ({"fps": 0.01}, [15]), ({"fps": 30, "max_frames": 4}, [3, 11, 18, 26]),
        ({"max_frames": 200}, list(range(30))), ({"fps": 10, "max_frames": 30}, list(range(30))),
    ],
)  # fmt: skip
def test_options_say_how_many(options, expected, mp4):
    sampling = VideoSampling(**options)
    assert numbers_of(load_video(mp4, sampling)) == expected
    assert count_frames(mp4, VideoSampling(**{"fps": 100, **options})) >= len(expected)
    if "fps" in options:
        assert count_frames(mp4, sampling) == len(expected)


def test_every_source_gives_the_same_frames(mp4, tmp_path):
    path = tmp_path / "a b:c.mp4"
    path.write_bytes(mp4)
    first = load_video(mp4)
    address = "data:video/mp4;base64," + base64.b64encode(mp4).decode()
    sources = (path, str(path), bytearray(mp4), address, {"bytes": mp4, "path": None},
               {"bytes": None, "path": str(path)})  # fmt: skip
    for source in sources:
        found = load_video(source)
        assert [frame.seconds for frame in found] == [frame.seconds for frame in first]
        pairs = zip(found, first, strict=True)
        assert all(one.image.tobytes() == other.image.tobytes() for one, other in pairs)


def test_lists_and_arrays_are_frames_at_their_own_rate():
    array = np.stack([np.full((4, 6, 3), level(n), np.uint8) for n in range(30)])
    tensor = torch.from_numpy(array).movedim(-1, 1)
    for source in (array, tensor, [Image.fromarray(one) for one in array]):
        frames = load_video(source, VideoSampling(fps=10))
        assert numbers_of(frames) == EIGHT
        assert [frame.seconds for frame in frames] == [n / 10 for n in EIGHT]
        assert count_frames(source) == 8 and count_frames(source[:3]) == 3
    assert [frame.seconds for frame in load_video([array[0]] * 2)] == [0, 1]
    paths = [f"{n}.png" for n in range(30)]
    assert [frame.image for frame in load_video(paths)] == [paths[n] for n in EIGHT]


def test_a_decoder_of_torchcodec():
    class Decoder:
        metadata = SimpleNamespace(average_fps=10.0)

        def __len__(self):
            return 30

        def get_frames_at(self, indices):
            data = torch.stack([torch.full((3, 4, 6), level(n)).byte() for n in indices])
            return SimpleNamespace(data=data, pts_seconds=torch.tensor(indices) / 10 + 0.5)

    frames = load_video(Decoder())
    assert numbers_of(frames) == EIGHT
    assert [frame.seconds for frame in frames] == pytest.approx([n / 10 + 0.5 for n in EIGHT])


def test_times_of_a_variable_rate_are_kept_and_no_frame_comes_twice():
    times = [0, 0.1, 0.2, 0.3, 4.0, 4.1, 6.0, 9.9]
    frames = load_video(make_video(8, format="matroska", times=times), VideoSampling(4))
    # The middles are at about 1.2, 3.7, 6.2 and 8.7 seconds.
    assert numbers_of(frames) == [3, 6]
    assert [frame.seconds for frame in frames] == pytest.approx([0.3, 6.0])


def test_one_frame_a_turned_video_and_a_transparent_one():
    assert numbers_of(load_video(make_video(1))) == [0]
    (frame,) = load_video(turned(make_video(1)))
    assert frame.image.size == SIZE[::-1]
    clear = make_video(1, format="mov", codec="png", pixels="rgba", alpha=0)
    (frame,) = load_video(clear)
    assert np.asarray(load_image(frame.image)).min() == 255


def test_a_turn_is_clockwise_as_its_header_says():
    file = make_video(1, format="mov", codec="png", pixels="rgb24", mark=(3, 4))
    for data, place in ((file, (3, 4)), (turned(file), (SIZE[1] - 1 - 4, 3))):
        image = load_video(data)[0].image
        assert [image.getpixel(place), image.getpixel((20, 20))] == [(255,) * 3, (0,) * 3]


def test_a_long_video_is_sought_not_decoded():
    long = make_video(3000, 1, keys=50, size=(16, 16))
    frames = load_video(long, limits=ImageLimits(video_frames=8 * 50))
    assert [time_stamp(frame.seconds) for frame in frames][-1] == "[46:52.0]"
    with pytest.raises(WingsError, match=r"must be decoded .* video_frames allows, 20;"):
        load_video(long, limits=ImageLimits(video_frames=20))


def test_time_stamps():
    stamps = {0: "[0:00.0]", 1.46: "[0:01.5]", 59.96: "[1:00.0]", 3599: "[59:59.0]",
              3661.25: "[1:01:01.2]", 36000: "[10:00:00.0]", -0.2: "[0:00.0]"}  # fmt: skip
    assert {seconds: time_stamp(seconds) for seconds in stamps} == stamps


def cut(data, share):
    return data[: int(len(data) * share)]


BAD = {
    "empty": (b"", "is not a whole, readable video"),
    "letters": (b"no video", "is not a whole, readable video"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "is not a whole, readable video"),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not a whole, readable video"),
    "no file": ("nowhere.mp4", "'nowhere.mp4' does not exist"),
    "folder": (".", "is not a whole, readable video"),
    "no frames": ([], "A list of 0 frames has no frames"),
    "number": (7, "int 7 is not a video; give a path"),
    "mapping": ({"x": 1}, "needs 'bytes' or 'path', and this one has 'x'"),
    "address": ("http://127.0.0.1:9/a.mp4", "private network"),
    "data": ("data:video/mp4;base64", "has no comma"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_video_is_a_sentence(name):
    source, words = BAD[name]
    with pytest.raises(WingsError, match=words) as caught:
        load_video(source)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert count_frames(source, VideoSampling(fps=1)) == (0 if source == [] else 8)


def test_a_video_that_is_cut_off_or_damaged_is_refused(tmp_path):
    streamed = {"path": tmp_path / "a.mp4", "container_options": {"movflags": "faststart"}}
    for kind in (
        streamed,
        {"format": "matroska", "codec": "ffv1"},
        {"format": "avi", "codec": "mpeg4"},
    ):
        data = make_video(60, **kind)
        for share in (0.3, 0.6):
            with pytest.raises(WingsError, match="is not a whole, readable video"):
                load_video(cut(data, share))
    whole = make_video(60, keys=5, format="matroska", codec="ffv1")
    draw = np.random.default_rng(0)
    for _ in range(30):
        data = np.frombuffer(whole, np.uint8).copy()
        data[draw.integers(0, len(data), 20)] ^= 255
        try:
            found = load_video(data.tobytes())
        except WingsError as error:
            assert "readable video" in str(error) or "allows" in str(error)
        else:
            assert 1 <= len(found) <= 8


def test_limits_are_checked_before_the_work(mp4, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(mp4)
    for source in (mp4, tmp_path / "a.mp4"):
        with pytest.raises(WingsError, match=r"bytes, more than video_bytes allows, 99"):
            load_video(source, limits=ImageLimits(video_bytes=99))
    with pytest.raises(WingsError, match=r"64 x 48 pixels, more than image_pixels allows, 3,071"):
        load_video(mp4, limits=ImageLimits(image_pixels=3071))
    with pytest.raises(WingsError, match=r"8 frames of 64 x 48 .* lower max_frames"):
        load_video(mp4, limits=ImageLimits(video_pixels=8 * 3072 - 1))
    assert len(load_video(mp4, limits=ImageLimits(video_pixels=8 * 3072, image_pixels=3072))) == 8


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", 2000])
def test_numbers_that_cannot_be_used(value):
    with pytest.raises(WingsError, match="'max_frames' is"):
        VideoSampling(max_frames=value)
    if value not in (1.5, 2000):
        with pytest.raises(WingsError, match="'fps' is"):
            VideoSampling(fps=value)
    with pytest.raises(WingsError, match=r"no option 'max_frame' \(did you mean 'max_frames'"):
        VideoSampling.of({"max_frame": value})


def test_a_missing_package_is_named(mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("wings.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(WingsError, match=r"av is not installed; run .*wings-lorra\[video\]"):
        load_video(mp4)
    assert len(load_video([Image.new("RGB", (4, 4))])) == 1 and count_frames(mp4) == 8
