"""`VideoInput`: the videos of a processor's input, which become time stamps and images."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from wings.errors import WingsError
from wings.sense import IMAGE

from .conversation import source_of
from .conversation_rows import each_row
from .image_limits import ImageLimits
from .item_encoder import check_counts, flatten, token_of
from .video_parts import VIDEO, frames_in_texts, replace_videos, video_parts, videos_apart
from .video_reader import count_frames
from .video_sampling import VideoSampling


@dataclass(frozen=True)
class VideoInput:
    """Reads the videos of messages and texts for one processor.

    Attributes:
        sampling: which frames, where a part of a message has no options of its own.
        limits: what a video may cost.
        senses: of the processor, by name.
    """

    sampling: VideoSampling
    limits: ImageLimits
    senses: Collection[str]

    def in_messages(self, rows: list, videos: Any = None) -> list:
        """Conversations with time stamps and images in place of their videos.

        Args:
            rows: messages of each.
            videos: sources of the videos that have none, in any nesting.

        Raises:
            WingsError: other numbers of sources and places (both, and the row), a model that does
                not see, or a video that cannot be read.
        """
        check_counts([videos_apart(row) for row in rows], videos, VIDEO)
        given = iter(flatten(VIDEO, videos))

        def parts_of(part: Mapping) -> list[dict[str, Any]]:
            if IMAGE not in self.senses:
                raise WingsError(
                    "The conversation has a video, and this model has no encoder for images; it "
                    f"has {', '.join(self.senses)}."
                )
            source = source_of(part, VIDEO)
            return self.parts(next(given) if source is None else source, part)

        return each_row(rows, lambda row: replace_videos(row, parts_of))

    def in_texts(
        self, texts: list[str] | None, images: Any, videos: Any
    ) -> tuple[list[str] | None, list]:
        """Texts with time stamps and one `<image>` a frame for each `<video>`, and all images.

        Args:
            texts: with a placeholder for each image and video; None for images alone.
            images: sources of the images, in any nesting.
            videos: sources of the videos, likewise.

        Raises:
            WingsError: as `in_messages`.
        """
        if texts is None:
            videos = [self.parts(source, {}) for source in flatten(VIDEO, videos)]
            frames = [part["image"] for video in videos for part in video if "image" in part]
            return None, [*flatten(IMAGE, images), *frames]
        for name, sources in ((IMAGE, images), (VIDEO, videos)):
            check_counts([text.count(token_of(name)) for text in texts], sources, name)
        parts = [self.parts(source, {}) for source in flatten(VIDEO, videos)]
        return frames_in_texts(texts, flatten(IMAGE, images), parts)

    def count(self, part: Mapping) -> int:
        """Frames that a part of a message takes; nothing is decoded, and nothing refused."""
        try:
            sampling = self.sampling.with_options(part)
        except WingsError:
            sampling = self.sampling
        return count_frames(source_of(part, VIDEO), sampling, self.limits)

    def parts(self, source: Any, part: Mapping) -> list[dict[str, Any]]:
        """A video as time stamps and images, by the options of its part of a message.

        Raises:
            WingsError: as `load_video`, or an option that cannot be used.
        """
        return video_parts(source, self.sampling.with_options(part), self.limits)
