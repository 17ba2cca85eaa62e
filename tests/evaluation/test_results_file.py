"""The file of results: strict JSON, with the AP of each class; and what an evaluation leaves as it is."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_helpers import restored_catalogs
from engine_helpers import tiny_options, write_dataset

from pair_detr.engine import argument_parser, main
from pair_detr.evaluation.results_file import write_results


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "evaluation_results_file")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_by_class_and_dataset(tmp_path: Path) -> None:
    box = {"AP": 30.0, "APl": math.nan, "AP50-novel": 5.0, "AP-cat": 20.0, "AP-AP-x": 40.0}
    write_results({"bbox": box}, tmp_path / "results.json", datasets=("val",), weights="a.pth")
    content = read(tmp_path)
    expected = {"AP": 30.0, "APl": None, "AP50-novel": 5.0, "AP_by_class": {"cat": 20.0, "AP-x": 40.0}}
    assert content["results"] == {"val": {"bbox": expected}}
    assert content["info"]["unit"] == "percent" and content["info"]["weights"] == "a.pth"
    several = {"one": {"bbox": {"AP": 1.0}}, "two": {}}
    write_results(several, tmp_path / "results.json", datasets=("one", "two"), weights="", class_names=["cell"])
    assert read(tmp_path)["results"] == {"one": {"bbox": {"AP": 1.0, "AP_by_class": {"cell": 1.0}}}, "two": {}}


def test_an_evaluation_leaves_the_config_of_the_training(dataset: dict[str, str], tmp_path: Path) -> None:
    tests = {"DATASETS__TEST": (dataset["NAME"],), "SOLVER__MAX_ITER": 1}
    trained = main(argument_parser().parse_args(tiny_options(dataset, tmp_path, SEED=3, **tests)))
    at_the_end, config = read(tmp_path), (tmp_path / "config.yaml").read_bytes()
    (tmp_path / "results.json").unlink()
    # The last checkpoint has the weights of the final one.
    last, final = (str(tmp_path / name) for name in ("model_0000000.pth", "model_final.pth"))
    assert at_the_end["info"]["weights"] == final
    for flags, weights in ((["--resume"], ""), ([], final)):
        options = tiny_options(dataset, tmp_path, SEED=4, SOLVER__BASE_LR=0.5, MODEL__WEIGHTS=weights, **tests)
        found = main(argument_parser().parse_args(["--eval-only", *flags, *options]))
        assert str(found) == str(trained)
        info = at_the_end["info"] | {"weights": weights or last}
        assert read(tmp_path) == at_the_end | {"info": info}
        assert (tmp_path / "config.yaml").read_bytes() == config
    assert "BASE_LR: 0.5" in (tmp_path / "log.txt").read_text()
    result = at_the_end["results"][dataset["NAME"]]["bbox"]
    assert set(result["AP_by_class"]) == {"one", "two"}
    assert result["AP"] == pytest.approx(trained["bbox"]["AP"])
    # A new training sets the results of the one before aside.
    main(argument_parser().parse_args(tiny_options(dataset, tmp_path, **tests | {"DATASETS__TEST": ()})))
    assert read(tmp_path / "earlier_1") == at_the_end | {"info": info}
    assert not (tmp_path / "results.json").exists()
