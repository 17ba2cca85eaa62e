"""Images from the web, for programs whose users have allowed it."""

import time
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from PIL import Image

from pair_detr.images.reading import open_image

MAX_BYTES = 64 << 20
TIMEOUT = 30.0

_SCHEMES = ("http", "https")
_CHUNK = 1 << 16
_REMEDY = "Correct the address, or download the image by other means and give its file."


def is_url(text: object) -> bool:
    """Whether an input is the address of something in the web, rather than a path."""
    return isinstance(text, str) and urlsplit(text).scheme.lower() in _SCHEMES and "://" in text


def download_image(url: str, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> Image.Image:
    """Downloads an image into memory, upright.

    Args:
        url: http or https; so are all addresses that it redirects to.
        max_bytes: of the file.
        timeout: seconds, for an answer and for all of the file.

    Raises:
        OSError: there is no network, no answer, or nothing that is an image; the message names the address.
        ValueError: it has more than 8 bits per channel.
    """
    if not is_url(url):
        raise ValueError(f"{url} is no address of the web: give one that starts with https:// or http://.")
    try:
        deadline = time.monotonic() + timeout
        with _opener().open(Request(url, headers={"User-Agent": "pair_detr"}), timeout=timeout) as response:
            content = _read(response, max_bytes, deadline)
    except HTTPError as error:
        raise OSError(
            f"{url} cannot be downloaded: the server answers {error.code} {error.reason}. {_REMEDY}"
        ) from error
    # A forged address or answer is a ValueError.
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{url} cannot be downloaded ({reason}). {_REMEDY}") from error
    return open_image(url, _REMEDY, content)


def _opener() -> OpenerDirector:
    # Not build_opener, which also opens files, FTP and data: a redirect could lead there.
    opener = OpenerDirector()
    for handler in (
        ProxyHandler,
        UnknownHandler,
        HTTPHandler,
        HTTPSHandler,
        HTTPDefaultErrorHandler,
        HTTPRedirectHandler,
        HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _read(response: HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > max_bytes:
            raise OSError(f"it is larger than {max_bytes >> 20} MiB")
        # The timeout of a socket starts anew with every byte that arrives.
        if time.monotonic() > deadline:
            raise TimeoutError("it takes too long")
    return bytes(content)
