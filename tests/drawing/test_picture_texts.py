"""Names of classes, files and runs hold anything; pictures show them as they are, without an error or a warning."""

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from data_helpers import restored_catalogs, write_coco
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from model_helpers import tiny_cfg
from PIL import Image
from tool_helpers import save_model

from pair_detr.drawing import text
from pair_detr.drawing.text import drawable, set_fonts
from pair_detr.tools import plot_training

NAMES = ["$x$ and $\\foo$", "two\nlines\tand\x07", "猫", "\N{DOG FACE}" + "long" * 60, "_under$", "\ud800 ok"]


@pytest.fixture(autouse=True)
def _fonts_of_matplotlib_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever else is installed."""
    bundled = [font for font in font_manager.fontManager.ttflist if font.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", bundled)
    text._fonts_of.cache_clear()
    yield
    text._fonts_of.cache_clear()


@pytest.fixture(autouse=True)
def _no_warning_of_matplotlib() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="matplotlib")
        warnings.filterwarnings("error", message="Glyph|constrained_layout|.*tight")
        yield


def lacking(family: str) -> str:
    """A letter that this family has and the default one has not."""
    charmaps = [
        font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=[name]))).get_charmap()
        for name in (family, "sans-serif")
    ]
    return next(chr(x) for x in sorted(charmaps[0].keys() - charmaps[1].keys()) if chr(x).isalpha())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("5 $", r"5 \$"),
        ("$a$", r"\$a\$"),
        (r"a\$b$", r"a\\$b\$"),
        ("two\nlines\x00 ", "two lines"),
        ("x" * 30 + "y" * 30, "x" * 26 + "…" + "y" * 13),
        ("\N{LATIN SMALL LETTER U WITH DIAERESIS}", "\N{LATIN SMALL LETTER U WITH DIAERESIS}"),
        # A character of private use is not printable.
        ("a\U000f0000b猫", "a b?"),
    ],
)
def test_texts_for_matplotlib(name: str, expected: str) -> None:
    assert drawable([name]) == [expected]


def test_dollars_are_drawn() -> None:
    figure = Figure()
    (escaped,) = drawable(["$x$ costs 5 $"])
    cleaned, is_math = figure.text(0, 0, escaped)._preprocess_math(escaped)
    assert cleaned == "$x$ costs 5 $" and not is_math


def test_characters_without_a_font_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert drawable(["犬 dog"]) == ["? dog"]
    found = [message for message in caplog.messages if "犬" in message]
    assert len(found) == 1 and "Install a font that has them" in found[0]


def test_characters_of_another_font_are_taken_from_it() -> None:
    letter = lacking("STIXGeneral")
    assert drawable([f"a {letter}"]) == [f"a {letter}"]
    figure = Figure()
    figure.text(0.5, 0.5, f"a {letter}")
    plain = figure.text(0.5, 0.2, "a")
    set_fonts(figure)
    # Without a warning of a missing glyph, which is an error here.
    FigureCanvasAgg(figure).draw()
    assert plain.get_fontfamily() == ["sans-serif"]


def test_tools_draw_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pair_detr.tools import check_dataset, demo, explain_matching, visualize_attention, visualize_data

    with restored_catalogs():
        annotations = [{"image_id": 1, "bbox": [5, 10, 20, 15], "category_id": i + 1} for i in range(len(NAMES))]
        file = write_coco(tmp_path / "data", annotations, [(60, 40)])
        content = json.loads(file.read_text())
        content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
        content["images"][0]["file_name"] = "$1$ 猫.png"
        (tmp_path / "data" / "1.png").rename(tmp_path / "data" / "$1$ 猫.png")
        file.write_text(json.dumps(content))
        cfg = tiny_cfg(NUM_CLASSES=len(NAMES))
        cfg.DATASETS.REGISTER = [{"NAME": "own", "FORMAT": "coco", "JSON": str(file), "IMAGES": str(tmp_path / "data")}]
        cfg.DATASETS.TEST = ("own",)
        monkeypatch.setattr("tool_helpers.CLASSES", NAMES)
        arguments, out, image = save_model(tmp_path, cfg), tmp_path / "out", tmp_path / "data" / "$1$ 猫.png"
        options = ["--opts", "MODEL.DEVICE", "cpu"]
        shown = ["--input", str(image), "--output", str(out), "--confidence", "0"]
        assert demo.main([*arguments, *shown, *options]) == 0
        explain_matching.main([*arguments, "--output", str(out / "matching.png"), *options])
        visualize_attention.main([*arguments, "--image", str(image), "--output", str(out / "a.png"), *options])
        assert visualize_data.main(["own", "--config-file", arguments[1], "--output", str(out)]) == 0
        assert check_dataset.main(["own", "--config-file", arguments[1]]) == 0
        report = check_dataset.check_dataset("own")
        assert len(check_dataset.class_table(report).splitlines()) == len(NAMES) + 2
    for name, width in (("$1$ 猫.png", 60), ("matching.png", 100), ("a.png", 100)):
        with Image.open(out / name) as picture:
            assert picture.width >= width
    # What is not a picture has the names as they are.
    rows = json.loads((out / "matching.json").read_text())["matches"]
    assert {row["class"] for row in rows} == set(NAMES)


def test_training_curves_with_any_name(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        row = {"iteration": 9, "bbox/AP": 5.0, "total_loss": 1.0, "loss_$a$": 1.0, "epoch": 1.0}
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(row) + "\n")
    arguments = [f"_$x$ 猫={tmp_path / '0'}", f"{'long' * 40}={tmp_path / '1'}", "--title", "$\\foo$ " * 40]
    plot_training.main([*arguments, "--output", str(tmp_path / "curves.png")])
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 0
    # A legend leaves out what begins with an underscore.
    assert "_$x$ ?" in (tmp_path / "curves.svg").read_text().replace("&#160;", " ")
