"""Which way imports go: packages know those below them, and nothing knows what is above."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pair_detr"
# From the ground up; those in one line do not know each other.
FLOORS = (
    {"utils", "layers"},
    {"structures", "config", "tensor_files", "images"},
    {"losses", "data", "config_files", "runtime"},
    {"open_vocabulary", "evaluation", "drawing"},
    {"modeling"},
    {"checkpoint", "inference"},
    {"engine", "predictor", "deployment"},
    {"analysis", "recipes", "report"},
    {"visualization", "prediction"},
    {"app"},
    {"tools"},
    {"studies"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# Evaluators are chosen with the classes of the vocabulary.
SIDEWAYS = {("evaluation", "open_vocabulary")}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def imports_of(file: Path) -> Iterator[str]:
    """Modules of the package that a module imports at any place, but for hints of types."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports do not say which way they go"
            if node.module not in MODULES:
                continue
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def test_every_package_has_a_floor() -> None:
    names = {name.split(".")[1] for name in MODULES if "." in name}
    assert names == set(FLOOR)


@pytest.mark.parametrize("package", sorted(FLOOR))
def test_packages_import_those_below_them_alone(package: str) -> None:
    upward = []
    for name, file in MODULES.items():
        if name.split(".")[1:2] != [package]:
            continue
        for imported in imports_of(file):
            other = imported.split(".")[1] if "." in imported else ""
            if other != package and (package, other) not in SIDEWAYS and FLOOR.get(other, 99) >= FLOOR[package]:
                upward.append(f"{name} imports {imported}")
    assert upward == []


def test_there_are_no_circles_of_modules() -> None:
    graph = {name: set(imports_of(file)) - {name} for name, file in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join((*path, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_root_holds_few_modules_and_none_is_long() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} <= {"__init__", "config_files", "predictor", "structures"}
    too_long = {name for name, file in MODULES.items() if len(file.read_text().splitlines()) > 350}
    assert too_long == set()


def test_the_circle_that_a_module_closes_is_found(tmp_path: Path) -> None:
    """The checks see imports at the top, inside of functions, of modules and of names."""
    file = tmp_path / "a.py"
    file.write_text(
        "import pair_detr.layers\nfrom pair_detr.data import catalog\n\n"
        "def f():\n    from pair_detr.losses.terms import LossTerm\n\n"
        "if TYPE_CHECKING:\n    from pair_detr.tools import demo\n"
    )
    assert set(imports_of(file)) == {"pair_detr.layers", "pair_detr.data.catalog", "pair_detr.losses.terms"}


@pytest.mark.parametrize("script", sorted((PACKAGE.parent / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_import_what_there_is(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pair_detr"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_package_itself_has_what_programs_start_from() -> None:
    package = importlib.import_module("pair_detr")
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        _ = package.trainer
