"""`VideoSampling`: the frames that are taken of a video, and their time stamps."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from wings.errors import WingsError, nearest

MOST_FRAMES = 1024
# transformers' names of the fields.
KEYWORDS = {"num_frames": "max_frames", "fps": "fps"}


@dataclass(frozen=True)
class VideoSampling:
    """Rule by which frames are taken: evenly over the whole video, and no frame twice.

    With n frames, a video of D seconds is cut into n equal stretches, and the frame in the middle
    of each is taken.

    Attributes:
        max_frames: the most frames of one video.
        fps: frames to take per second, as long as they are no more than `max_frames`; None for as
            many as `max_frames` allows. A list of frames has this rate itself; None is 1 then.

    Raises:
        WingsError: a number that cannot be used.
    """

    max_frames: int = 8
    fps: float | None = None

    def __post_init__(self) -> None:
        count = self.max_frames
        if type(count) is not int or not 1 <= count <= MOST_FRAMES:
            raise WingsError(
                f"'max_frames' is {count!r}; it must be a whole number from 1 to {MOST_FRAMES}."
            )
        if self.fps is None:
            return
        is_number = isinstance(self.fps, int | float) and not isinstance(self.fps, bool)
        if not is_number or not 0 < self.fps < 10_000:
            raise WingsError(
                f"'fps' is {self.fps!r}; it must be a number of frames per second above 0."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "VideoSampling":
        """The rule with these fields.

        Raises:
            WingsError: a field that there is not, or a number that cannot be used.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise WingsError(
                    f"Videos have no option {name!r}{nearest(str(name), names)}; options are "
                    f"{', '.join(names)}."
                )
        return cls(**given)

    def with_options(self, part: Mapping[str, Any]) -> "VideoSampling":
        """The rule with the options of a part of a message; None counts as absent."""
        own = {field.name: part.get(field.name) for field in fields(self)}
        return replace(self, **{name: one for name, one in own.items() if one is not None})

    def with_keywords(self, given: dict[str, Any]) -> "VideoSampling":
        """The rule with transformers' options of videos, which are taken out of `given`.

        Args:
            given: keywords of a processor; `num_frames` and `fps` may be in its `videos_kwargs`.
        """
        own = dict(given.get("videos_kwargs") or {})
        found = {}
        for name, field in KEYWORDS.items():
            values = [place.pop(name, None) for place in (given, own)]
            found[field] = next((value for value in values if value is not None), None)
        if "videos_kwargs" in given:
            given["videos_kwargs"] = own
        return self.with_options(found)

    def changes(self) -> dict[str, Any]:
        """The fields that are not the default."""
        return {k: v for k, v in asdict(self).items() if v != getattr(type(self), k)}

    def count(self, frames: int, seconds: float) -> int:
        """Number of frames that are taken of a video.

        Args:
            frames: that it has, 1 or more.
            seconds: that it lasts.
        """
        wanted = self.max_frames if self.fps is None else max(1, round(seconds * self.fps))
        return min(self.max_frames, frames, wanted)

    def choose(self, times: Sequence[float], seconds: float) -> list[int]:
        """The numbers of the frames that are taken, ascending.

        Args:
            times: seconds from the start at which each frame appears, ascending; the first is 0.
            seconds: from the start to the end of the last frame.
        """
        count = self.count(len(times), seconds)
        middles = [(number + 0.5) * seconds / count for number in range(count)]
        return sorted({max(0, bisect_right(times, middle) - 1) for middle in middles})


def time_stamp(seconds: float) -> str:
    """The text before a frame: `[0:01.5]`, or `[1:00:01.5]` from an hour on."""
    tenths = round(max(0.0, seconds) * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"[{clock}:{tenths // 10:02}.{tenths % 10}]"
