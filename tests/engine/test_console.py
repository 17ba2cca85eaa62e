"""What a training shows on the console, and what it leaves to log.txt."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset

from pair_detr.engine import argument_parser, main


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "engine_console")


def start(dataset: dict[str, str], folder: Path, *flags: str, **changes: object) -> dict:
    return main(argument_parser().parse_args([*flags, *tiny_options(dataset, folder, **changes)]))


def test_start_and_end(dataset: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A warning: this step is after the end.
    changes = {"SOLVER__MAX_ITER": 4, "SOLVER__STEPS": (9,), "DATASETS__TEST": (dataset["NAME"],)}
    results = start(dataset, tmp_path, TEST__EVAL_PERIOD=2, **changes)
    shown, log = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    before, after = shown.split("Starting training from iteration 0")
    first, *others = before.splitlines()
    assert re.search(
        r"Training pair_detr with 0\.\d+ M parameters \(0\.\d+ M trained\) on engine_console: 8 images, 2 classes "
        r"\(one, two\)\. An epoch is 2 iterations of 4 images; 4 iterations \(2 epochs\), evaluated on engine_console "
        rf"every 2 iterations\. Computed in fp32 on cpu\. .*{tmp_path}",
        first,
    )
    assert others[0].startswith("WARNING") and "SOLVER.STEPS contains values larger than SOLVER.MAX_ITER" in others[0]
    assert len(others) < 5
    for text in ("META_ARCHITECTURE", "(criterion): SetCriterion", "Environment info"):
        assert text in log and text not in shown
    assert re.search(r"epoch: 2\.00/2\.00 .*iter: 3 .*total_loss", after)
    # Of its losses, those of all layers are in the files alone.
    (line,) = re.findall(r".*iter: 3 .*", after)
    assert re.findall(r"(\w*loss\w*): [\d.]+", line) == [
        *("loss_class", "loss_box", "loss_giou", "loss_pair", "total_loss")
    ]
    assert "loss_class_aux" in (tmp_path / "metrics.json").read_text()
    # A table of all in percent, and no fractions of pycocotools.
    assert "Average Precision" not in shown
    summary = after[after.index("The training has ended after 4 iterations.") :]
    assert f"{results['bbox']['AP50']:.4g}"[:4] in summary
    assert re.search(rf"Best +bbox/AP [\d.]+ percent after [24] iterations: {tmp_path}/model_best\.pth", summary)
    assert f"pair-detr eval --config-file {tmp_path}/config.yaml MODEL.WEIGHTS {tmp_path}/model_best.pth" in summary
    # AP of large objects is NaN here, for which JSON has no word.
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    rows = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]
    assert any(row.get("bbox/APl", 0) is None for row in rows)


def test_warnings_are_shown_when_the_start_fails(
    dataset: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyError, match="nowhere"):
        start(dataset, tmp_path, VIS_PERIOD=5, DATASETS__TEST=("nowhere",))
    assert "VIS_PERIOD" in capsys.readouterr().out


def test_without_a_run_nothing_is_held_back(capsys: pytest.CaptureFixture[str]) -> None:
    from pair_detr.engine.console import hold_console, release_console

    logger = logging.getLogger("pair_detr")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.setLevel(logging.INFO)
    hold_console()
    for level, text in ((logging.INFO, "information"), (logging.WARNING, "a warning"), (logging.ERROR, "an error")):
        logger.log(level, text)
    assert capsys.readouterr().out == "an error\n"
    release_console()
    release_console()
    logger.info("later")
    assert capsys.readouterr().out == "a warning\nlater\n"
    # As does a second run in the same process.
    hold_console()
    logger.info("held back")
    release_console()
    assert capsys.readouterr().out == ""
