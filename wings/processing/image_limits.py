"""`ImageLimits`: bounds on the cost of reading an image or a video."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class ImageLimits:
    """Bounds that are checked before the work is done.

    Attributes:
        image_bytes (bytes): bytes of one image file, data URI or download.
        image_pixels (pixels): pixels of one image. Decoding takes about 4 bytes a pixel, 12 with
            transparency. Pillow's own bound, `PIL.Image.MAX_IMAGE_PIXELS`, also holds.
        video_bytes (bytes): bytes of one video file, data URI or download.
        video_frames (frames): frames of one video that are decoded to reach those that are taken.
        video_pixels (pixels): pixels of all frames that are taken of one video, 3 bytes each;
            `image_pixels` bounds one frame.
        url_seconds (seconds): seconds for one download, with redirects.
        private_addresses: also follow URLs to this machine and to private networks.
    """

    image_bytes: int = 256 * 2**20
    image_pixels: int = 120_000_000
    video_bytes: int = 2**30
    video_frames: int = 20_000
    video_pixels: int = 500_000_000
    url_seconds: float = 30.0
    private_addresses: bool = False
    kind: ClassVar[str] = "image"

    @property
    def most_bytes(self) -> int:
        """Bytes of one file, data URI or download."""
        return self.image_bytes


@dataclass(frozen=True)
class VideoFileLimits:
    """The bounds of a video file, as `wings/processing/web_file.py` reads them."""

    limits: ImageLimits
    kind: ClassVar[str] = "video"

    @property
    def most_bytes(self) -> int:
        """Bytes of one file, data URI or download."""
        return self.limits.video_bytes

    @property
    def url_seconds(self) -> float:
        """Seconds for one download."""
        return self.limits.url_seconds

    @property
    def private_addresses(self) -> bool:
        """True if URLs to private networks are followed."""
        return self.limits.private_addresses
