"""`ImageLimits`: bounds on the cost of reading an image."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class ImageLimits:
    """Bounds that are checked before the work is done.

    Attributes:
        image_bytes (bytes): bytes of one image file, data URI or download.
        image_pixels (pixels): pixels of one image. Decoding takes about 4 bytes a pixel, 12 with
            transparency. Pillow's own bound, `PIL.Image.MAX_IMAGE_PIXELS`, also holds.
        url_seconds (seconds): seconds for one download, with redirects.
        private_addresses: also follow URLs to this machine and to private networks.
    """

    image_bytes: int = 256 * 2**20
    image_pixels: int = 120_000_000
    url_seconds: float = 30.0
    private_addresses: bool = False
    kind: ClassVar[str] = "image"

    @property
    def most_bytes(self) -> int:
        """Bytes of one file, data URI or download."""
        return self.image_bytes
