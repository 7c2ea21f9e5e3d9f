"""The bytes of a file on disk, at a URL or in a data URI, within limits."""

import base64
import contextlib
import functools
import http.client
import ipaddress
import os
import socket
import ssl
import stat
import threading
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from wings import __version__
from wings.errors import WingsError
from wings.extras import NAME

SCHEMES = ("http://", "https://", "data:")
_CHUNK = 1 << 16
# Some servers refuse the name of Python's own client.
_HEADERS = {"User-Agent": f"{NAME}/{__version__}"}


class FileLimits(Protocol):
    """Bounds that are checked before the work is done."""

    @property
    def url_seconds(self) -> float:
        """Seconds for one download, with redirects."""

    @property
    def private_addresses(self) -> bool:
        """True if URLs to this machine and to private networks are followed too."""

    @property
    def kind(self) -> str:
        """The kind of the file, such as "image"; its option for bytes is `<kind>_bytes`."""

    @property
    def most_bytes(self) -> int:
        """Bytes of one file, data URI or download."""


def is_address(source: str) -> bool:
    """True for a URL or a data URI, in any case of letters."""
    return source[:8].lower().startswith(SCHEMES)


def fetch_file(address: str, limits: FileLimits) -> bytes:
    """Return the bytes of the file at a URL (`http://`, `https://`) or in a data URI.

    Raises:
        WingsError: more bytes or seconds than `limits` allow, an address in a private network, or
            no answer.
    """
    if address[:5].lower() == "data:":
        return _decode_uri(address, limits)
    done: list[bytes | BaseException] = []

    def work() -> None:
        try:
            done.append(_download(address, limits))
        except BaseException as error:
            done.append(error)

    # A thread, because name servers and slow servers can exceed any timeout of a socket.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limits.url_seconds)
    if not done:
        raise WingsError(
            f"It did not arrive within {limits.url_seconds:g} seconds; raise url_seconds."
        )
    if isinstance(done[0], bytes):
        return done[0]
    if isinstance(done[0], WingsError):
        raise done[0]
    raise WingsError(f"It cannot be downloaded ({done[0]}).") from done[0]


def _decode_uri(uri: str, limits: FileLimits) -> bytes:
    header, comma, data = uri.partition(",")
    if not comma:
        raise WingsError("The data URI has no comma before its data.")
    # Base64 writes 3 bytes as 4 letters; a percent code is 3 letters for one byte.
    if len(data) // 4 > limits.most_bytes:
        raise too_many_bytes(len(data) // 4 * 3, limits)
    raw = unquote_to_bytes(data)
    if header.lower().endswith(";base64"):
        raw = raw.translate(bytes.maketrans(b"-_", b"+/"), b" \t\r\n")
        raw = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    if len(raw) > limits.most_bytes:
        raise too_many_bytes(len(raw), limits)
    return raw


def read_file(path: str | Path, limits: FileLimits) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        WingsError: more bytes than `limits` allow.
        OSError, ValueError: no file, or a folder, device or named pipe.
    """
    with open_file(path, limits) as file:
        return file.read(limits.most_bytes)


def open_file(path: str | Path, limits: FileLimits) -> BinaryIO:
    """Open a regular file.

    Raises:
        WingsError, OSError, ValueError: as `read_file`.
    """
    # Without waiting: opening a named pipe would last until something is written to it.
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(descriptor, "rb"))
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is not a regular file")
        if state.st_size > limits.most_bytes:
            raise too_many_bytes(state.st_size, limits)
        # It stays open for the caller.
        stack.pop_all()
    return file


def too_many_bytes(size: int, limits: FileLimits) -> WingsError:
    """The error for a file of `size` bytes, more than are allowed."""
    return WingsError(
        f"It has {size:,} bytes, more than {limits.kind}_bytes allows, {limits.most_bytes:,}."
    )


def _download(url: str, limits: FileLimits) -> bytes:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HTTPHandler(limits.private_addresses),
        _HTTPSHandler(limits.private_addresses),
    ):
        opener.add_handler(handler)
    headers = {**_HEADERS, "Accept": f"{limits.kind}/*"}
    request = urllib.request.Request(url, headers=headers)
    chunks, size = [], 0
    with opener.open(request, timeout=limits.url_seconds) as answer:
        announced = int(answer.headers.get("Content-Length") or 0)
        if announced > limits.most_bytes:
            raise too_many_bytes(announced, limits)
        while chunk := answer.read(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > limits.most_bytes:
                raise too_many_bytes(size, limits)
    if size < announced:
        raise WingsError(f"Only {size:,} of its {announced:,} bytes arrived.")
    return b"".join(chunks)


def _connect(connection: Any, allows_private: bool) -> socket.socket:
    """A socket to the first address of the connection's host that may be used.

    The name is resolved once: a second look-up could give another, private address.
    """
    error: OSError | None = None
    for family, kind, protocol, _, place in socket.getaddrinfo(
        connection.host, connection.port, type=socket.SOCK_STREAM
    ):
        if not allows_private and not _is_public(place[0]):
            raise WingsError(
                f"{connection.host} is in a private network; set private_addresses to true to "
                "allow it."
            )
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(connection.timeout)
            made.connect(place)
            return made
        except OSError as reason:
            made.close()
            error = reason
    raise error or OSError(f"{connection.host} has no address")


def _is_public(address: str | int) -> bool:
    one = ipaddress.ip_address(str(address).partition("%")[0])
    inner = getattr(one, "ipv4_mapped", None) or getattr(one, "sixtofour", None)
    return (inner or one).is_global and not one.is_multicast


class _HTTPConnection(http.client.HTTPConnection):
    def __init__(self, *args: Any, allows_private: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allows_private = allows_private

    def connect(self) -> None:
        self.sock = _connect(self, self.allows_private)


class _HTTPSConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, allows_private: bool, context: Any, **kwargs: Any) -> None:
        super().__init__(*args, context=context, **kwargs)
        self.allows_private, self.tls = allows_private, context

    def connect(self) -> None:
        plain = _connect(self, self.allows_private)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.host)


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, allows_private: bool) -> None:
        super().__init__()
        self.allows_private = allows_private

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_unless_proxied(request, _HTTPConnection, self.allows_private), request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, allows_private: bool) -> None:
        super().__init__()
        self.allows_private, self.tls = allows_private, ssl.create_default_context()

    def https_open(self, request: urllib.request.Request) -> Any:
        made = _unless_proxied(request, _HTTPSConnection, self.allows_private)
        return self.do_open(made, request, context=self.tls)


def _unless_proxied(request: urllib.request.Request, own: Any, allows_private: bool) -> Any:
    """A maker of connections: `own`, or the standard one where a proxy resolves the name."""
    if request.host == urlsplit(request.full_url).netloc:
        return functools.partial(own, allows_private=allows_private)
    host = urlsplit(request.full_url).hostname or ""
    try:
        is_public = _is_public(host)
    except ValueError:
        is_public = host != "localhost"
    if not allows_private and not is_public:
        raise WingsError(f"{host} is in a private network; set private_addresses to true.")
    return own.__base__
