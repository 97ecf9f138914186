"""What a public function raises by itself is in its docstring."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import reft_interp as ri

PACKAGE = Path(ri.__file__).parent
FILES = [
    *(PACKAGE / f"{name}.py" for name in ("positions", "selector", "sites", "subspace")),
    *(
        file
        for folder in ("causal", "evaluation", "interventions", "models", "runtime")
        for file in sorted((PACKAGE / folder).glob("*.py"))
    ),
]
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


def raises(function: ast.FunctionDef) -> bool:
    found = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
    return any(one is not None and "NotImplementedError" not in ast.dump(one) for one in found)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_raises_says_so(file):
    told = [name for name, code, said in public(ast.parse(file.read_text())) if raises(code)
            and "raise" not in said.lower()]  # fmt: skip
    assert not told, f"without Raises: {', '.join(told)}"


def test_the_search_finds_one_that_is_silent():
    code = 'def f():\n    """Nothing."""\n    raise ValueError\n'
    ((name, function, said),) = public(ast.parse(code))
    assert name == "f" and raises(function) and said == "Nothing."
