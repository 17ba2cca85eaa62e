"""The command line of the page; tests/app has the page itself."""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from data_helpers import write_image
from tool_helpers import save_model

from pair_detr.tools import app


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--confidence", "1.5"], "--confidence 1.5: it must be from 0 to 1"),
        (["--port", "0"], "--port 0: it must be from 1 to 65535"),
        (["--examples", "absent"], "--examples absent is no folder"),
        (["--examples", "."], "--examples . has no images"),
    ],
)
def test_wrong_arguments_end_in_a_line(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # Said before the model is looked for, and whether Gradio is there or not.
    with pytest.raises(SystemExit) as end:
        app.main(["--weights", "absent.pth", *arguments])
    assert end.value.code == 2 and reason in capsys.readouterr().err


def test_without_gradio_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"The page needs Gradio .*: pip install gradio, or the extra"):
        app.main(["--weights", "absent.pth"])


def test_weights_that_are_absent_are_named() -> None:
    pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        app.main(["--weights", "absent.pth"])
    with pytest.raises(ValueError, match="There is no model: give --weights"):
        app.main([])


@pytest.mark.slow
def test_the_page_is_served_where_it_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a proxy is set; a port that is taken is named; nothing stays behind."""
    pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
    arguments = [*save_model(tmp_path), "--check", "--examples", str(tmp_path)]
    write_image(tmp_path / "a.png", 60, 40)
    threads = threading.active_count()
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        patch.setenv("no_proxy", "example.org")
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(OSError, match=rf"cannot be served at 127\.0\.0\.1, port {port}: another"):
            app.main([*arguments, "--port", str(port)])
        taken.close()
        app.main([*arguments, "--port", str(port)])
        assert os.environ["no_proxy"] == "example.org" and "NO_PROXY" not in os.environ
        app.main([*arguments, "--port", str(port), "--host", "0.0.0.0"])
    output = capsys.readouterr().out
    assert f"http://127.0.0.1:{port}/" in output
    assert "everyone who reaches this machine can use the page" in output
    assert threading.active_count() <= threads + 2
