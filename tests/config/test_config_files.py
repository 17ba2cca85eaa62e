"""Config files that cannot be read, or not as they were meant; the expected messages are what a user needs to know."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import get_cfg
from detectron2.utils.file_io import PathManager

from pair_detr.config.defaults import add_pair_detr_config
from pair_detr.config_files import config_file, load_config

FOLDER = config_file("r50").parent
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**files: str) -> None:
    """Writes own.yaml of ``own``, sub/b.yaml of ``sub__b``."""
    for name, content in files.items():
        path = Path(f"{name.replace('__', '/')}.yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize("name", FILES)
def test_the_package_s_configs_are_read_as_detectron2_reads_them(name: str) -> None:
    expected = get_cfg()
    add_pair_detr_config(expected)
    expected.merge_from_file(str(FOLDER / name))
    if expected.SOLVER.EPOCHS.MAX == 0:
        # What is inherited of a schedule in epochs goes with it.
        expected.SOLVER.EPOCHS = load_config("").SOLVER.EPOCHS
    assert load_config(str(FOLDER / name)) == expected


def test_bases_count_as_in_detectron2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative to the file, absolute, of the home folder, several, and twice the same."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(
        home__a="SEED: 1\nMODEL: {TIMM: {KWARGS: {a: 1, b: {c: 1}}}}",
        sub__b="_BASE_: ~/a.yaml\nMODEL: {TIMM: {KWARGS: {b: {d: 2}}}}\nSOLVER: {MAX_ITER: 5, STEPS: '(3, 4)'}",
        sub__c=f"_BASE_: {tmp_path}/home/a.yaml\nSEED: 3\nSOLVER: {{MAX_ITER: 7}}",
        own="_BASE_: [sub/b.yaml, ./sub/../sub/c.yaml]\nSOLVER: {BASE_LR: 1e-3}",
    )
    expected = get_cfg()
    add_pair_detr_config(expected)
    expected.merge_from_file("own.yaml")
    cfg = load_config(Path("own.yaml"))
    assert cfg == expected
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (3, 7, (3, 4), 1e-3)
    assert cfg.MODEL.TIMM.KWARGS == {"a": 1, "b": {"c": 1, "d": 2}}


BAD_BASES = {
    "one letter": (
        {"own": "_BASE_: base2.yaml", "base": "SEED: 1"},
        r'^own\.yaml: _BASE_ is "base2\.yaml", but /.*/base2\.yaml does not exist, and .*; did you mean base\.yaml\?',
    ),
    "no suffix": ({"own": "_BASE_: base", "base": "SEED: 1"}, r"did you mean base\.yaml\?"),
    "in the base": (
        {"own": "_BASE_: sub/b.yaml", "sub__b": "_BASE_: ../bas.yaml", "base": "SEED: 1"},
        r'^sub/b\.yaml: _BASE_ is "\.\./bas\.yaml", but /[^.]*/bas\.yaml does not .* you mean \.\./base\.yaml\?',
    ),
    "second of two": (
        {"own": "_BASE_: [base.yaml, nope.yaml]", "base": "SEED: 1"},
        r'^own\.yaml: _BASE_ is "nope\.yaml"',
    ),
    "relative to the working directory": (
        {"sub__b": "_BASE_: other/c.yaml", "other__c": "SEED: 1", "own": "_BASE_: sub/b.yaml"},
        r"sub/other/c\.yaml does not exist, nor does the folder other, and .*; did you mean \.\./other/c\.yaml\?",
    ),
    "like one of the package": ({"own": "_BASE_: detr/r5"}, r"did you mean configs/detr/r50\?"),
    "of the package or of the folder": (
        {"own": "_BASE_: r50", "r50": "SEED: 1"},
        r"^own\.yaml: .* did you mean r50\.yaml or configs/r50\?",
    ),
    "unlike any": (
        {"own": "_BASE_: x/y.yaml"},
        rf'_BASE_ is "x/y\.yaml", but /.*, nor does the folder x, and the package has no config {FOLDER}/x/y\.yaml\. P',
    ),
    "elsewhere": ({"own": "_BASE_: ../r50"}, r"/r50 does not exist\. Paths are relative"),
    "a folder": ({"own": "_BASE_: sub", "sub__b": "SEED: 1"}, r'_BASE_ is "sub", but /.*/sub is a folder'),
}


@pytest.mark.parametrize("case", BAD_BASES)
def test_bases_that_do_not_exist(case: str) -> None:
    files, message = BAD_BASES[case]
    write(**files)
    with pytest.raises(FileNotFoundError, match=message):
        load_config("own.yaml")


@pytest.mark.parametrize("name", ["detr/r50", "detr/r50.yaml", "configs/detr/r50.yaml", "./configs/detr/r50"])
def test_the_package_s_configs_are_found_by_name_from_any_folder(name: str) -> None:
    write(own=f"_BASE_: {name}\nSEED: 5", sub__b=f"_BASE_: [{name}]\nSEED: 5")
    expected = load_config("detr/r50", ["SEED", "5"])
    assert load_config("own.yaml") == load_config("sub/b.yaml") == expected


def test_a_file_counts_before_one_of_the_package() -> None:
    write(own="_BASE_: configs/r50.yaml", configs__r50="SEED: 7")
    assert load_config("own.yaml") == load_config("", ["SEED", "7"])
    # A file of the name of its base.
    write(r50="_BASE_: r50\nSEED: 7")
    assert load_config("r50.yaml") == load_config(str(FOLDER / "r50.yaml"), ["SEED", "7"])


@pytest.mark.parametrize("value", ["5", "", "''", "{a: b}", "[base.yaml, 5]"])
def test_bases_that_are_no_path(value: str) -> None:
    write(own=f"_BASE_: {value}", base="SEED: 1")
    with pytest.raises(ValueError, match=r"own\.yaml: _BASE_ is .*; it must be the path of a config file"):
        load_config("own.yaml")


@pytest.mark.parametrize("scheme", ["http", "https", "HTTPS", "s3", "file", "detectron2", "catalog"])
def test_configs_come_from_this_machine(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{scheme}://example.com/base.yaml"
    local = PathManager.open

    def open_local(path: str, *args: Any, **kwargs: Any) -> Any:
        assert "://" not in path
        return local(path, *args, **kwargs)

    monkeypatch.setattr(PathManager, "open", open_local)
    with pytest.raises(FileNotFoundError, match=rf"^{address} is an address, .*: download it\.$"):
        load_config(address)
    write(own="_BASE_: base.yaml", base=f"_BASE_: [{address}]")
    with pytest.raises(ValueError, match=rf'base\.yaml: _BASE_ is "{address}", an address, .*\. Download it, and name'):
        load_config("own.yaml")


def test_bases_in_a_circle() -> None:
    write(own="_BASE_: sub/b.yaml", sub__b="_BASE_: c.yaml", sub__c="_BASE_: ../own.yaml")
    with pytest.raises(ValueError, match=r"sub/c\.yaml: _BASE_ .*own\.yaml -> sub/b\.yaml -> sub/c\.yaml -> \S*own\."):
        load_config("own.yaml")
    write(own="_BASE_: own.yaml")
    with pytest.raises(ValueError, match=r"own\.yaml: _BASE_ is \"own\.yaml\", so that the file inherits from itself"):
        load_config("own.yaml")


# Ten times as many values a line, in memory no more than ten.
ALIASES = "DATASETS:\n  REGISTER:\n  - &a0 [1]\n" + "".join(
    f"  - &a{i} [{', '.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"own\.yaml is empty"),
        ("# SEED: 1\n", r"own\.yaml is empty"),
        ("- SEED: 1\n", r"own\.yaml holds a list, not keys"),
        ("SEED 1\n", r"own\.yaml holds a text, not keys"),
        ("SEED: 1\nSOLVER:\n\tMAX_ITER: 5\n", r"own\.yaml is not valid YAML \(line 3: .*Indent with spaces, not tabs"),
        ("SEED: 1\nSOLVER: {MAX_ITER: 5}\nSEED: 2\n", r"own\.yaml .*line 3: the key SEED is there already, in line 1"),
        ("SOLVER:\n  MAX_ITER: 5\n  MAX_ITER: 6\n", r"line 3: the key MAX_ITER is there already, in line 2"),
        ("SEED: 1\nMODEL: [\n", r"own\.yaml is not valid YAML \(line 3: expected"),
        (ALIASES, r"own\.yaml is not valid YAML \(line 1: with its aliases .* more than 1000000 values"),
        ("DATASETS: {TRAIN: &a [*a]}\n", r"own\.yaml is not valid YAML \(line 1: with its aliases"),
        ("SEED: 2024-13-01\n", r"own\.yaml is not valid YAML \(month must be"),
        ("SEED: 1\n---\nSEED: 2\n", r"own\.yaml is not valid YAML \(line 2: expected a single document"),
        ("5: 1\n", r"own\.yaml: the key 5 is not text"),
        ("SOLVER: {on: 1}\n", r"own\.yaml: the key True is not text"),
        ("VERSION: 1\n", r"own\.yaml: VERSION is 1"),
        ("SEED: 2024-01-01\n", r"own\.yaml: Key SEED with value .*date"),
        ("MODEL: 5\n", r"own\.yaml: MODEL is 5, but has keys of its own"),
        ("SEED: {A: 5}\n", r"own\.yaml: SEED has keys, but is a single value, such as -1"),
        ("SOLVER: {BASE_LR: 1}\n", r"own\.yaml: SOLVER\.BASE_LR is 1 \(int\); it must be .*float: 0\.0001\. Correct"),
        ("DATASETS: {TRAIN: one}\n", r"own\.yaml: DATASETS\.TRAIN is one \(str\); .*write \('one',\), on the command"),
        ("DATASETS: {TEST: 'a,b'}\n", r"DATASETS\.TEST is a,b \(str\); it must be a list.*: write \('a', 'b'\)"),
        ("INPUT: {MIN_SIZE_TRAIN: 640}\n", r"INPUT\.MIN_SIZE_TRAIN is 640 \(int\); .* write \(640,\), on"),
        ("SEED: {A: 5}\n_BASE_: base.yaml\n", r"own\.yaml: SEED has keys, but is the value 3 in a file of its _BASE_"),
    ],
)
def test_files_that_are_no_configs(content: str, message: str) -> None:
    write(own=content, base="SEED: 3")
    with pytest.raises(ValueError, match=message):
        load_config("own.yaml")


def test_the_file_at_fault_is_named() -> None:
    write(own="_BASE_: base.yaml\nSEED: 1", base="SOLVER: {MAX_ITER: many}")
    with pytest.raises(ValueError, match=r"^base\.yaml: SOLVER\.MAX_ITER is many \(str\); it must be .*int: 40000"):
        load_config("own.yaml")
    write(base="MODEL: {DETR: {NUM_QUERY: 5}}")
    with pytest.raises(KeyError, match=r"base\.yaml: There is no config key MODEL\.DETR\.NUM_QUERY; did you"):
        load_config("own.yaml")
    write(own="MODEL.DETR.NUM_QUERIES: 5")
    with pytest.raises(KeyError, match=r"own\.yaml: .*nest it: MODEL: {DETR: {NUM_QUERIES: \.\.\.}}"):
        load_config("own.yaml")
    write(own="BASE: base.yaml")
    with pytest.raises(KeyError, match=r"own\.yaml: There is no config key BASE; did you mean _BASE_\?"):
        load_config("own.yaml")


def test_options_of_another_type() -> None:
    for options, message in (
        (
            ["SOLVER.MAX_ITER", "many"],
            r"SOLVER\.MAX_ITER is many \(str\); it must be of the default's type, int: 40000",
        ),
        (["SEED", "1", "MODEL.DETR", "5"], r"MODEL\.DETR is 5, but has keys of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            load_config("", options)


@pytest.mark.parametrize("tag", ["object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:os"])
def test_config_files_run_no_code(tag: str) -> None:
    write(own=f"SEED: 1\nOUTPUT_DIR: !!python/{tag} [made]\n")
    with pytest.raises(ValueError, match=rf"own\.yaml .*line 2: !!python/{tag} could run code"):
        load_config("own.yaml")
    assert not Path("made").exists()


def test_tuples_and_merged_keys_are_values() -> None:
    write(
        own="SOLVER: {STEPS: !!python/tuple [1, 2]}\n"
        "DATASETS: {REGISTER: [&a {NAME: a, SPLIT: x}, {<<: *a, NAME: b}, {<<: *a}]}\n"
    )
    cfg = load_config("own.yaml")
    assert cfg.SOLVER.STEPS == (1, 2)
    assert [{"NAME": name, "SPLIT": "x"} for name in "aba"] == cfg.DATASETS.REGISTER


@pytest.mark.parametrize(("encoding", "in_base"), [*itertools.product(["utf-8", "utf-8-sig", "utf-16"], [False, True])])
def test_encodings(encoding: str, in_base: bool) -> None:
    write(own="_BASE_: base.yaml", base="SEED: 1")
    content: Any = 'OUTPUT_DIR: "Verzeichnis für 猫"\n'
    Path("base.yaml" if in_base else "own.yaml").write_text(content, encoding=encoding)
    assert load_config("own.yaml").OUTPUT_DIR == "Verzeichnis für 猫"
    Path("base.yaml" if in_base else "own.yaml").write_bytes("OUTPUT_DIR: für\n".encode("latin-1"))
    if in_base:
        write(own="_BASE_: base.yaml")
    with pytest.raises(ValueError, match=r"(own|base)\.yaml is not text in (?i:utf-8)"):
        load_config("own.yaml")
