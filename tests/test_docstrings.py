"""What a public function raises by itself is in its docstring."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import reft_interp as ri

PACKAGE = Path(ri.__file__).parent
LEFT_OUT = {
    "cli.py": "its docstrings are the help that is printed, and its mistakes end on the screen",
}
FILES = sorted(f for f in PACKAGE.rglob("*.py") if str(f.relative_to(PACKAGE)) not in LEFT_OUT)
MADE = ("__init__", "__post_init__")  # what these raise is said by the class


def public(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Functions and methods that are not private: a name, the code, where it is documented."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        for method in node.body:
            if not isinstance(method, ast.FunctionDef):
                continue
            if method.name in MADE:
                yield f"{node.name}", method, ast.get_docstring(node) or ""
            elif not method.name.startswith("_"):
                yield f"{node.name}.{method.name}", method, ast.get_docstring(method) or ""


def raised(function: ast.FunctionDef) -> set[str]:
    """The classes of errors that it raises itself, but for what a subclass has to fill in."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(error).rpartition(".")[2])
    return found - {"NotImplementedError"}


def told(docstring: str) -> str:
    """Its section on errors; nothing where it has none."""
    found = re.search(r"^Raises:\n((?: .*\n?|\n)+)", docstring, re.MULTILINE)
    return found[1] if found else ""


def silent(code: str) -> list[str]:
    """Functions that raise what they do not tell of; errors that are held in a variable have no
    name to look for, but need a section."""
    missing = []
    for name, function, docstring in public(ast.parse(code)):
        errors, section = raised(function), told(docstring)
        unnamed = [one for one in errors if one[0].isupper() and f"{one}:" not in section]
        if errors and (unnamed or not section):
            missing.append(f"{name} ({', '.join(sorted(unnamed or errors))})")
    return missing


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_raises_says_so(file):
    missing = silent(file.read_text(encoding="utf-8"))
    assert not missing, f"not under Raises: {', '.join(missing)}"


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Nothing.", ["f (ValueError)"]),
        ("Raise where it is wrong.", ["f (ValueError)"]),
        ("Does.\n\n    Raises:\n        TypeError: always.\n    ", ["f (ValueError)"]),
        ("Does.\n\n    Raises:\n        ValueError: always.\n    ", []),
    ],
)
def test_the_search_finds_one_that_is_silent(docstring, expected):
    assert silent(f'def f():\n    """{docstring}"""\n    raise ValueError\n') == expected
    assert silent(f'def _f():\n    """{docstring}"""\n    raise ValueError\n') == []


def test_what_is_left_out_is_there():
    assert all((PACKAGE / name).is_file() for name in LEFT_OUT)
