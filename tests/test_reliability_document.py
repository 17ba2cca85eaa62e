"""The tests that docs/reliability.md names: they exist, and run."""

import ast
import re
from pathlib import Path

import pytest

_NAMED = re.compile(r"`(test_\w+\.py)?(?:::(test_\w+))?`")


def named_tests(text: str) -> list[tuple[str, str]]:
    """File and function of each test that a document names; "" for a function where it names a file alone.

    A name that begins with "::" is of the file before it.
    """
    found, file = [], ""
    for match in _NAMED.finditer(text):
        file = match[1] or file
        if match[1] or match[2]:
            found.append((file, match[2] or ""))
    return found


def skips_always(function: ast.FunctionDef) -> bool:
    """Whether it is marked to be skipped or to fail, without a condition, or does nothing but skip."""
    marks = [ast.unparse(mark.func if isinstance(mark, ast.Call) else mark) for mark in function.decorator_list]
    statements = [
        node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    first = ast.unparse(statements[0]) if statements else "pass"
    return bool({"pytest.mark.skip", "pytest.mark.xfail"}.intersection(marks)) or first.startswith(
        ("pytest.skip(", "pass")
    )


def faults(text: str, folder: Path) -> list[str]:
    """What is wrong with the tests that a document names."""
    found = []
    for file, name in named_tests(text):
        path = next(folder.rglob(file), None)
        if path is None:
            found.append(f"{file} does not exist")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        if name and name not in functions:
            found.append(f"{file} has no {name}")
        elif name and skips_always(functions[name]):
            found.append(f"{file}::{name} is skipped")
    return found


def test_every_promise_has_tests_that_exist_and_run(project_root: Path) -> None:
    text = (project_root / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert faults(text, project_root / "tests") == []
    # Nor are they left out by their names.
    selection = "".join((project_root / name).read_text() for name in ("pyproject.toml", "tests/conftest.py"))
    assert not [name for _, name in named_tests(text) if name and re.search(rf"\b{name}\b", selection)]
    rows = [line for line in text.splitlines() if line.startswith("|") and not re.match(r"\| promise|\|---", line)]
    assert len(rows) > 25
    for row in rows:
        tests = named_tests(row)
        assert tests and all(file and name for file, name in tests), row


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`test_a.py::test_good`, `::test_good`, `test_a.py`", []),
        ("`test_b.py::test_good`", ["test_b.py does not exist"]),
        ("`test_a.py::test_good`, `::test_gone`", ["test_a.py has no test_gone"]),
        (
            "`test_a.py::test_marked`, `::test_empty`",
            ["test_a.py::test_marked is skipped", "test_a.py::test_empty is skipped"],
        ),
    ],
)
def test_what_a_document_names_wrongly_is_found(text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import pytest\n\ndef test_good():\n    assert 1\n\n@pytest.mark.skip(reason='')\ndef test_marked():\n    "
        "assert 1\n\n"
        "def test_empty():\n    'Nothing.'\n    pytest.skip('later')\n"
    )
    assert faults(text, tmp_path) == expected
