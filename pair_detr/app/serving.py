"""Serves the page from this process, to this machine unless told otherwise."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pair_detr.app.detection import PageModel
from pair_detr.app.page import CSS, build_page

# Visitors whose images are kept at once; each has some megabytes.
_SESSIONS = 16
_LARGEST_FILE = "100mb"


@contextmanager
def serving(
    model: PageModel,
    examples: Sequence[Path] = (),
    threshold: float = 0.5,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[str]:
    """Serves the page within a ``with`` block, to which its address is given.

    Args:
        model: that detects.
        examples: images to choose from.
        threshold: least score that is shown at first.
        host: address to serve at.
        port: None takes the first free one from 7860.

    Raises:
        ImportError: Gradio is not installed.
        OSError: the port is taken, or the address is not this machine's.
    """
    with tempfile.TemporaryDirectory(prefix="pair_detr_app_") as folder, _environment(host, folder):
        page = build_page(model, examples, threshold)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                # Else it would make a tunnel, or start another server or service, where variables say so.
                share=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                # What visitors did is neither recorded nor shown.
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                # Of this machine's files, the page gives out what was uploaded, what it drew, and the examples.
                allowed_paths=[],
                max_file_size=_LARGEST_FILE,
                state_session_capacity=_SESSIONS,
                css=CSS,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise OSError(
                f"The page cannot be served at {host}, {f'port {port}' if port else 'ports from 7860'}: another "
                "program is there, or the address is not this machine's. Choose another --port, or --host."
            ) from error
        try:
            yield address
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(host: str, folder: str) -> Iterator[None]:
    """What Gradio takes from the environment.

    Its folder for uploads is one for all of its programs, which give out each other's files; this one is the page's.
    And it asks its own server whether it is there, which a proxy would not find.
    """
    names = ("no_proxy", "NO_PROXY", "GRADIO_TEMP_DIR")
    before = {name: os.environ.get(name) for name in names}
    for name in names[:2]:
        os.environ[name] = ",".join(filter(None, (before[name], "127.0.0.1", "localhost", host)))
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
