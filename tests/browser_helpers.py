"""A headless browser of the distribution, for the pages that the package makes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OWN_SCHEMES = ("data", "blob", "about")


@dataclass
class Watched:
    """What a page has done so far.

    Attributes:
        requests: addresses that it asked for.
        problems: what it wrote to the console as an error, or threw.
    """

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def foreign(self, *allowed: str) -> list[str]:
        """Requests to other hosts than these; none for a page that is a file."""
        parts = [(url, urlsplit(url)) for url in self.requests]
        return [url for url, x in parts if x.scheme not in (*_OWN_SCHEMES, "file") and x.hostname not in allowed]


@contextmanager
def browser_page(width: int = 1280, height: int = 900) -> Iterator[tuple[Any, Watched]]:
    """A page of a headless browser, for Playwright's synchronous API, and what it asks for and complains of.

    Skips the test where Playwright or a Chromium is missing. Nothing is downloaded: the browser is the system's.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    watched = Watched()
    with playwright.sync_playwright() as driver:
        # Root has no sandbox, and containers have little shared memory.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.on("request", lambda request: watched.requests.append(request.url))
            page.on("pageerror", lambda error: watched.problems.append(str(error)))
            page.on(
                "console",
                lambda message: watched.problems.append(message.text) if message.type == "error" else None,
            )
            yield page, watched
        finally:
            browser.close()
