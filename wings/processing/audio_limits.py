"""`AudioLimits`: bounds on the cost of reading a sound."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class AudioLimits:
    """Bounds that are checked before the work is done.

    Attributes:
        audio_bytes (bytes): bytes of one audio file, data URI or download.
        audio_seconds (seconds): length of one clip. Decoding keeps 4 bytes a sample of one channel.
        url_seconds (seconds): seconds for one download, with redirects.
        private_addresses: also follow URLs to this machine and to private networks.
    """

    audio_bytes: int = 256 * 2**20
    audio_seconds: float = 600.0
    url_seconds: float = 30.0
    private_addresses: bool = False
    kind: ClassVar[str] = "audio"

    @property
    def most_bytes(self) -> int:
        """Bytes of one file, data URI or download."""
        return self.audio_bytes
