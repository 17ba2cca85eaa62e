"""Images from the web, by a server on this machine."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pair_detr.images.downloads import download_image, is_url

_PNG = BytesIO()
Image.new("RGB", (7, 5), (10, 20, 30)).save(_PNG, "PNG")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.02)
        else:
            content = {"/a.png": _PNG.getvalue(), "/page": b"<html>", "/large": bytes(5000)}.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_images_are_downloaded_also_where_redirected_to(site: str) -> None:
    for address in (f"{site}/a.png", f"{site}/to//a.png"):
        image = download_image(address)
        assert image.size == (7, 5)
        assert np.asarray(image)[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "the server answers 404 Not Found"),
        ("page", "page cannot be read as an image"),
        ("to/file:///etc/hostname", "not allowed"),
        ("to/ftp://127.0.0.1/a.png", "unknown url type: ftp"),
        ("to/data:image/png;base64,AAAA", "not allowed"),
        ("large", "larger than 0 MiB"),
        ("slow", "it takes too long"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(site: str, path: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(OSError, match=message) as caught:
        download_image(f"{site}/{path}", max_bytes=1000, timeout=0.3)
    assert f"{site}/{path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 1


def test_without_a_network() -> None:
    with pytest.raises(OSError, match=r"^http://127\.0\.0\.1:9/a\.png cannot be downloaded \(.*refused\)"):
        download_image("http://127.0.0.1:9/a.png", timeout=1)


def test_only_addresses_of_the_web_are_opened() -> None:
    assert is_url("https://x.org/a.jpg") and is_url("HTTP://x.org/a.jpg")
    for other in ("file:///etc/passwd", "ftp://x.org/a.jpg", "photos/http:/a.jpg", "C:/a.jpg", "http:a.jpg", 5):
        assert not is_url(other)
    with pytest.raises(ValueError, match="no address of the web"):
        download_image("file:///etc/passwd")
