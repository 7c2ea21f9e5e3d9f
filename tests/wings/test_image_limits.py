"""Limits: an image's size is looked at before the work, and a download ends."""

import base64
import http.server
import io
import os
import resource
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from wings.errors import WingsError
from wings.processing.image_limits import ImageLimits
from wings.processing.image_processor import WingsImageProcessor
from wings.processing.image_reader import MissingImage, load_image
from wings.processing.web_file import _is_public, fetch_file


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PICTURE = saved(Image.new("RGB", (9, 7), "red"))
LOCAL = ImageLimits(url_seconds=5.0, private_addresses=True)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers by the first part of the path."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest.replace("PORT", str(self.server.server_port)))
            self.end_headers()
            return
        if kind == "gone":
            self.send_error(404)
            return
        if kind == "silent":
            time.sleep(20)
            return
        self.send_response(200)
        if kind == "large":
            self.send_header("Content-Length", str(10**12))
        if kind == "short":
            self.send_header("Content-Length", str(len(PICTURE) + 9))
        self.end_headers()
        try:
            if kind == "slow":
                for byte in PICTURE * 99:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            elif kind == "endless":
                while True:
                    self.wfile.write(b"x" * 65536)
            else:
                self.wfile.write(PICTURE)
        except OSError:
            pass


@pytest.fixture(scope="module")
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)


def test_an_image_is_downloaded(server):
    for path in ("picture", "to//picture", "to/http://127.0.0.1:PORT/to//picture"):
        assert load_image(f"{server}/{path}", LOCAL).size == (9, 7)
    assert load_image(f"{server}/picture".replace("http", "HTTP"), LOCAL).size == (9, 7)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("gone", "404"), ("short", r"Only .* bytes arrived"), ("large", "more than image_bytes"),
        ("endless", "more than image_bytes"), ("to/file:///etc/passwd", "downloaded"),
        ("to/ftp://127.0.0.1/x", "downloaded"), ("to/gopher://x", "downloaded"),
        ("to/http://127.0.0.1:PORT/to/http://127.0.0.1:PORT/gone", "404"),
    ],
)  # fmt: skip
def test_what_does_not_arrive_is_named(server, path, says):
    limits = ImageLimits(image_bytes=10**6, url_seconds=5.0, private_addresses=True)
    with pytest.raises(WingsError, match=says) as error:
        load_image(f"{server}/{path}", limits)
    assert f"{server}/{path}" in str(error.value)


@pytest.mark.parametrize("path", ["slow", "silent", "to//silent"])
def test_a_download_ends_in_time(server, path):
    begin = time.monotonic()
    with pytest.raises(WingsError, match=r"within 0\.5 seconds|timed out"):
        load_image(f"{server}/{path}", ImageLimits(url_seconds=0.5, private_addresses=True))
    assert time.monotonic() - begin < 3


def test_a_redirect_without_end(server):
    loop = "to/http://127.0.0.1:PORT/" * 30
    with pytest.raises(WingsError, match="downloaded"):
        load_image(f"{server}/{loop}gone", LOCAL)


PRIVATE = [
    "127.0.0.1", "localhost", "0.0.0.0", "0", "2130706433", "0x7f.1", "127.1", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fc00::1]", "224.0.0.1", "[2002:7f00:1::]",
    "192.0.2.1", "240.0.0.1", "255.255.255.255",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_addresses_are_not_met(host, scheme):
    with pytest.raises(WingsError, match="private network"):
        load_image(f"{scheme}://{host}:9/x.png", ImageLimits(url_seconds=5.0))


def test_a_redirect_to_a_private_address_is_not_followed(server, monkeypatch):
    port = server.rpartition(":")[2]
    # The first host counts as public; what it redirects to does not.
    monkeypatch.setattr(
        "wings.processing.web_file._is_public", lambda address: address == "127.0.0.1"
    )
    for inner in (f"http://127.0.0.2:{port}/picture", "http://10.0.0.1/x", "http://[::1]/x"):
        with pytest.raises(WingsError, match="private network"):
            load_image(f"{server}/to/{inner}", ImageLimits(url_seconds=5.0))
    assert load_image(f"{server}/picture", ImageLimits()).size == (9, 7)


def test_public_addresses():
    for address in ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"):
        assert _is_public(address)


def test_data_uris():
    code = base64.b64encode(PICTURE).decode()
    percent = "".join(f"%{byte:02x}" for byte in PICTURE)
    for uri in (
        f"data:image/png;base64,{code}", f"DATA:;base64,{code}", f"data:image/png,{percent}",
        f"data:image/png;charset=x;base64,{code[:20]}\n {code[20:]}",
        "data:image/png;base64," + base64.urlsafe_b64encode(PICTURE).decode().rstrip("="),
    ):  # fmt: skip
        assert load_image(uri).size == (9, 7)
    for uri, says in (
        ("data:", "no comma"), ("data:image/png;base64", "no comma"), ("data:,", "not a whole"),
        (f"data:;base64,{code[:48]}", "not a whole"), ("data:;base64,***", "not a whole"),
        ("data:;base64," + "A" * 9_999, "more than image_bytes"),
        ("data:," + "a" * 9_999, "more than image_bytes"),
    ):  # fmt: skip
        with pytest.raises(WingsError, match=says) as error:
            load_image(uri, ImageLimits(image_bytes=999))
        assert len(str(error.value)) < 700


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", "/dev/zero", "/dev/null"):
        with pytest.raises(WingsError, match="not a regular file"):
            load_image(path)
    for path in (tmp_path / "folder.png", tmp_path / "loop.png", "a\0b", "x" * 9_999, "\ud800"):
        with pytest.raises(WingsError):
            load_image(path)
    with pytest.raises(MissingImage):
        load_image(tmp_path / "gone.png")
    (tmp_path / "large.png").write_bytes(b"")
    os.truncate(tmp_path / "large.png", 2**40)
    with pytest.raises(WingsError, match="more than image_bytes"):
        load_image(tmp_path / "large.png")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG", "PPM", "TGA"])
def test_pixels_are_counted_before_they_are_decoded(kind, monkeypatch):
    data = saved(Image.new("RGB", (64, 32)), kind)
    size = Image.open(io.BytesIO(data)).size
    assert load_image(data, ImageLimits(image_pixels=size[0] * size[1])).size == size
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(WingsError, match=r"pixels, more than image_pixels allows, 1,000"):
        load_image(data, ImageLimits(image_pixels=1000))


def test_a_bomb_takes_no_memory(monkeypatch):
    """60,000 x 60,000 pixels of one colour in a file of some 100 bytes of header and no more."""
    bomb = bytearray(saved(Image.new("1", (8, 8))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    # Without Pillow's own bound.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WingsError, match="60,000 x 60,000 pixels, more than image_pixels"):
        load_image(bytes(bomb))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_images_of_people_pass():
    """A photo of 108 million pixels is allowed, one of a text line 1 pixel high too."""
    assert ImageLimits().image_pixels >= 108_000_000
    assert load_image(Image.new("L", (50_000, 1))).size == (50_000, 1)
    pixels = WingsImageProcessor(28)(Image.new("RGB", (1, 70_000), "red"))["pixel_values"]
    assert pixels.shape == (1, 3, 28, 28)


def test_the_limits_of_a_processor_are_not_saved(tmp_path):
    processor = WingsImageProcessor(28)
    processor.limits = ImageLimits(image_pixels=10)
    with pytest.raises(WingsError, match="image_pixels"):
        processor(np.zeros((9, 9, 3), np.uint8))
    processor.save_pretrained(tmp_path)
    assert "limits" not in (tmp_path / "preprocessor_config.json").read_text()
    assert WingsImageProcessor.from_pretrained(tmp_path).limits == ImageLimits()


def test_programs_are_not_run():
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(WingsError, match=r"EPS files are programs|not a whole"):
        load_image(script)


def test_a_proxy_is_asked_only_for_public_hosts(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost", "[::1]", "169.254.169.254"):
        with pytest.raises(WingsError, match="private network"):
            fetch_file(f"http://{host}/x.png", ImageLimits(url_seconds=3.0))
    with pytest.raises(WingsError, match="cannot be downloaded"):
        fetch_file("http://example.org/x.png", ImageLimits(url_seconds=3.0))
