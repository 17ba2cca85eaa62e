"""The page in a real browser, which may talk to its own server alone."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import browser_page
from data_helpers import write_image
from open_vocabulary_helpers import text_cfg
from tool_helpers import save_model

from pair_detr import Predictor
from pair_detr.app import texts
from pair_detr.app.detection import PageModel

pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
httpx = pytest.importorskip("httpx", reason="comes with gradio")
# Gradio calls functions of pandas that the newest one warns of.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:gradio.*")]

_HOST = "127.0.0.1"


class Served:
    """A page that is served, and the predictions that its model has made."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        predictor = Predictor.from_files(arguments[1], arguments[3])
        self.examples = [folder / "first.png", folder / "second.png"]
        for file, size in zip(self.examples, ((60, 40), (50, 50)), strict=True):
            write_image(file, *size)
        self.expected = predictor(self.examples[0])["instances"]
        self.model = PageModel(predictor)
        self.calls = 0
        predict = predictor.predict

        def counted(prepared: list[dict[str, Any]]) -> list[dict[str, Any]]:
            self.calls += 1
            return predict(prepared)

        predictor.predict = counted


def served(folder: Path, arguments: list[str]) -> Iterator[tuple[str, Served]]:
    # Gradio, which the package imports where it needs it, takes seconds.
    from pair_detr.app.serving import serving

    page = Served(folder, arguments)
    before = set(Path(tempfile.gettempdir()).glob("pair_detr_app_*"))
    with serving(page.model, page.examples, threshold=0.0, host=_HOST) as address:
        yield address, page
    assert set(Path(tempfile.gettempdir()).glob("pair_detr_app_*")) <= before, "uploads are left behind"


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Served]]:
    folder = tmp_path_factory.mktemp("linear")
    yield from served(folder, save_model(folder))


def wait_for_text(page: Any, selector: str, pattern: str) -> str:
    """The text of an element, once it has the pattern in it."""
    page.locator(selector).filter(has_text=re.compile(pattern)).wait_for(timeout=20_000)
    return page.locator(selector).inner_text()


def wait_for_picture(page: Any, width: int, height: int) -> None:
    """Until the picture is loaded, in its size; the rest of the page may be there before."""
    page.wait_for_function(
        "size => { const x = document.querySelector('#picture img');"
        " return x && x.naturalWidth == size[0] && x.naturalHeight == size[1]; }",
        arg=[width, height],
    )


def upload(page: Any, file: Path) -> None:
    page.set_input_files("#image input[type=file]", str(file))


def test_a_visitor_detects_and_looks_at_attention(linear: tuple[str, Served]) -> None:
    address, served = linear
    expected, names = served.expected, served.model.own_classes
    with browser_page() as (page, watched):
        page.goto(address)
        title = wait_for_text(page, "#title", "Pair DETR")
        assert "3 classes (cat, dog, owl)" in title and "model.pth" in title
        assert texts.WELCOME in wait_for_text(page, "#status p", "Upload")
        vocabulary = page.locator("#vocabulary")
        assert texts.LINEAR in vocabulary.inner_text() and vocabulary.locator("textarea, input").is_disabled()
        assert not page.locator("#map-combined").is_visible() and not page.locator("#table").is_visible()

        upload(page, served.examples[0])
        wait_for_text(page, "#status p", f"^{len(expected)} detections")
        wait_for_picture(page, 60, 40)
        row = page.locator('#table [data-row="0"]')
        assert row.nth(1).inner_text().strip() == names[expected.pred_classes[0]]
        assert float(row.nth(2).inner_text()) == pytest.approx(float(expected.scores[0]), abs=1e-3)

        # A click on the picture, in the middle of the smallest box.
        smallest = int(expected.pred_boxes.area().argmin())
        x, y = expected.pred_boxes.get_centers()[smallest].tolist()
        image = page.locator("#picture img")
        box = image.bounding_box()
        image.click(position={"x": x / 60 * box["width"], "y": y / 40 * box["height"]})
        wait_for_text(page, "#about p", f"^Attention of detection {smallest + 1}, .* in layer 3 of 3, the last")
        for kind in ("combined", "spatial", "content"):
            page.locator(f"#map-{kind} img").wait_for()
        # Another layer of the same query, and the other decoder.
        page.locator("#layer label").first.click()
        wait_for_text(page, "#about p", f"^Attention of detection {smallest + 1}, .* in layer 1 of 3")
        before = page.locator("#map-combined img").get_attribute("src")
        page.locator("#decoder label").nth(1).click()
        page.wait_for_function("src => document.querySelector('#map-combined img').src != src", arg=before)

        # The threshold draws anew, and the model is not asked again.
        calls = served.calls
        threshold = float(expected.scores[2:4].mean()) if expected.scores[2] > expected.scores[3] else 1.0
        threshold = round(threshold, 2)
        count = int((expected.scores >= threshold).sum())
        page.locator("#threshold input[type=number]").fill(str(threshold))
        page.keyboard.press("Tab")
        wait_for_text(page, "#status p", f"^{count} detection" if count else "^No detection has a score of")
        assert served.calls == calls

        # An example, in place of the upload; a row of the table.
        page.locator("#threshold input[type=number]").fill("0")
        page.keyboard.press("Tab")
        page.locator("button.gallery-item").nth(1).click()
        wait_for_picture(page, 50, 50)
        page.wait_for_function("() => document.querySelector('#about').innerText.trim() == ''")
        page.locator('#table [data-row="1"][data-col="1"]').first.click()
        wait_for_text(page, "#about p", "^Attention of detection 2, ")
        assert watched.foreign(_HOST) == [] and watched.problems == []
        assert len(watched.requests) > 10


def test_files_that_are_no_images_have_a_line_in_the_page(linear: tuple[str, Served], tmp_path: Path) -> None:
    address, _ = linear
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    with browser_page(width=390) as (page, watched):
        page.goto(address)
        wait_for_text(page, "#status p", "Upload")
        upload(page, broken)
        line = wait_for_text(page, "#status .problem", "broken.png is no image")
        assert str(tmp_path) not in line and "gradio" not in line.lower()
        # As wide as the phone, with a table as well.
        page.locator("button.gallery-item").first.click()
        page.locator("#table").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert watched.foreign(_HOST) == []


def test_classes_are_chosen_by_their_names(tmp_path: Path) -> None:
    for address, served in served_text_model(tmp_path):
        with browser_page() as (page, watched):
            page.goto(address)
            wait_for_text(page, "#title", "helmet, forklift, traffic cone")
            upload(page, served.examples[0])
            wait_for_text(page, "#status p", r"^\d+ detections")
            classes = page.locator("#vocabulary").locator("textarea, input")
            classes.fill("forklift")
            classes.press("Enter")
            page.wait_for_function(
                "() => document.querySelector('#table')?.innerText.includes('forklift')"
                " && !document.querySelector('#table').innerText.includes('helmet')"
            )
            classes.fill("zebra")
            classes.press("Enter")
            line = wait_for_text(page, "#status .problem", "^zebra: not among the 3 classes")
            assert "Traceback" not in line and str(tmp_path) not in line
            assert watched.foreign(_HOST) == [] and watched.problems == []


def served_text_model(folder: Path) -> Iterator[tuple[str, Served]]:
    yield from served(folder, save_model(folder, text_cfg(folder)))


def test_files_of_the_machine_are_not_given_out(linear: tuple[str, Served], tmp_path: Path) -> None:
    """Neither by their address nor as if they had been uploaded."""
    address, served = linear
    secret = tmp_path / "secret.png"
    write_image(secret, 20, 20)
    here = Path(__file__).resolve()
    for path in (secret, here, Path("/etc/passwd")):
        for prefix in ("gradio_api/file=", "file=", "gradio_api/file/", "static/../../"):
            assert client().get(f"{address}{prefix}{path}").status_code in (401, 403, 404, 422), (prefix, path)
    # As the browser asks for detections: of a file that was uploaded, but of no other.
    config = client().get(f"{address}config").json()
    ids = {block["props"].get("elem_id"): block["id"] for block in config["components"]}
    (detect,) = (d for d in config["dependencies"] if d["targets"] == [[ids["image"], "change"]])
    assert detect["api_visibility"] == "private"
    (uploaded,) = client().post(f"{address}gradio_api/upload", files={"files": secret.read_bytes()}).json()
    calls = served.calls
    assert asks_for_detections(address, detect["id"], uploaded) and served.calls == calls + 1
    assert not asks_for_detections(address, detect["id"], str(secret)) and served.calls == calls + 1


def asks_for_detections(address: str, function: int, path: str) -> bool:
    """Whether the server detects in a file of its machine."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
    body = {"data": [file, "", 0.0, False], "fn_index": function, "session_hash": f"test of {path}"}
    client().post(f"{address}gradio_api/queue/join", json=body).raise_for_status()
    answer = client().get(f"{address}gradio_api/queue/data", params={"session_hash": body["session_hash"]}, timeout=20)
    (end,) = (event for line in answer.text.splitlines() if "process_completed" in line for event in [line[6:]])
    return json.loads(end)["success"]


def client() -> Any:
    """Without the proxy of the environment, if there is one."""
    return httpx.Client(trust_env=False)
