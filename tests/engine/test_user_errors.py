"""How train_net.py and the tools end when the user, a library or the package itself is at fault."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_helpers
import pytest
from data_helpers import restored_catalogs
from engine_helpers import tiny_config, tiny_options, write_dataset
from torch.utils.data import DataLoader

from pair_detr.config_files import config_file
from pair_detr.data import check_dataset
from pair_detr.engine import Trainer, argument_parser, run_program
from pair_detr.engine.user_errors import TRACEBACK_VARIABLE, describe_error, short_training_errors
from pair_detr.tools.common import tool_parser


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, "0")


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[dict[str, str]]:
    """One of its images is cut off."""
    folder = tmp_path / "data"
    folder.mkdir()
    with restored_catalogs():
        entry = write_dataset(folder, "engine_user_errors")
        image = folder / "3.png"
        image.write_bytes(image.read_bytes()[:500])
        yield entry


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def status_of(main: Callable[[], object]) -> Any:
    with pytest.raises(SystemExit) as ended:
        run_program(main)
    return ended.value.code


def caught(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:
        action()
    return raised.value


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1), ({"bbox": {"AP": 40.0}}, 0)])
def test_the_status_is_the_number_that_is_returned(returned: object, status: int) -> None:
    assert status_of(lambda: returned) == status


def test_errors_of_the_user_are_the_line_that_says_what_is_wrong(tmp_path: Path) -> None:
    """Python prints a text that a process ends with, and makes its status 1."""
    for main, line in (
        (lambda: config_file("no_such"), r"error: no config file 'no_such' in .*\bquickstart\.yaml.*"),
        (lambda: check_dataset("no_such"), r'error: Dataset "no_such" is not registered.*correct the name\.'),
        (lambda: (tmp_path / "absent").read_text(), r"error: \[Errno 2\] No such file or directory: '.*absent'"),
    ):
        assert re.fullmatch(line, status_of(main))
    assert status_of(raising(KeyboardInterrupt())) == 130
    assert status_of(raising(SystemExit(143))) == 143


@pytest.mark.parametrize("kind", [TypeError, AttributeError, RuntimeError, IndexError])
def test_mistakes_in_the_program_keep_their_traceback(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run_program(raising(kind("bug")))


@pytest.mark.parametrize("value", ["1", "yes"])
def test_traceback_on_demand(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, value)
    with pytest.raises(FileNotFoundError):
        run_program(lambda: config_file("no_such"))


@pytest.mark.parametrize("parser", [argument_parser(), tool_parser("A tool.", "tool --help")])
def test_the_flag_is_the_environment_variable(parser: Any) -> None:
    parser.parse_args([])
    assert os.environ[TRACEBACK_VARIABLE] == "0"
    parser.parse_args(["--traceback"])
    assert os.environ[TRACEBACK_VARIABLE] == "1"


def test_a_message_that_was_not_written_for_users_says_where_it_is_from() -> None:
    for action, pattern in (
        (lambda: {}["gt_boxes"], r"gt_boxes \(KeyError in engine/test_user_errors\.py, line \d+; .*\)"),
        (lambda: int("many"), r"invalid literal .* \(ValueError in .*\)"),
        (raising(AssertionError()), r"\(AssertionError in engine/test_user_errors\.py, line \d+; .*\)"),
    ):
        assert re.fullmatch(pattern, describe_error(caught(action)))


class _Unreadable:
    """A dataset for workers; what fails is this package's, or not."""

    def __init__(self, by_package: bool) -> None:
        self._by_package = by_package

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> object:
        return check_dataset('the "other"\nset') if self._by_package else int("many")


@pytest.mark.parametrize(
    ("by_package", "line"),
    [
        (True, 'Dataset "the "other"\nset" is not registered: '),
        (False, "invalid literal for int() with base 10: 'many' (Val"),
    ],
)
def test_errors_in_workers_of_the_loader_are_those_of_the_worker(by_package: bool, line: str) -> None:
    error = caught(lambda: next(iter(DataLoader(_Unreadable(by_package), num_workers=1))))
    assert "Original Traceback" in str(error)
    assert describe_error(error).startswith(line)


def test_the_log_of_a_training_has_the_line_without_traceback(
    dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shown in ("0", "1"):
        caplog.clear()
        monkeypatch.setenv(TRACEBACK_VARIABLE, shown)
        with short_training_errors(), pytest.raises(OSError, match=r"3\.png"):
            Trainer(tiny_config(dataset, tmp_path)).train()
        (record,) = (record for record in caplog.records if "Exception during training" in record.message)
        assert ("3.png cannot be read" in record.message) == (shown == "0")
        assert bool(record.exc_info) == (shown == "1")
    assert not logging.getLogger("detectron2.engine.train_loop").filters


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
@pytest.mark.parametrize("processes", [1, 2])
def test_train_net_ends_with_a_line(
    dataset: dict[str, str], tmp_path: Path, project_root: Path, processes: int
) -> None:
    """One of the processes meets the damaged image while the other one waits for it."""
    options = tiny_options(dataset, tmp_path / "out", SOLVER__MAX_ITER=50, DATALOADER__NUM_WORKERS=1)
    command = [str(project_root / "train_net.py"), "--num-gpus", str(processes), *options]
    ended = process_helpers.run_program(*command, output=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/data/3.png cannot be read")
    assert ended.stderr.count("error: ") == 1
    assert "Traceback" not in ended.stdout + ended.stderr
