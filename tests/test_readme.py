"""The README's Python runs as it stands, on fewer rows."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def fewer(code: str) -> str:
    """The same code with an eighth of the rows and few layers, so that it is a matter of a
    minute."""
    for whole, part in (
        ("n=600", "n=72"),
        ("number_naming()", "number_naming(72, 24)"),
        ("(2, 11, 20, 29)", "(11, 20)"),
        ("range(30)", "(0, 12)"),
        (
            '"subject", rank=4)\nprint(evidence',
            '"subject", rank=4, seeds=1, resamples=0, random_subspaces=2)\nprint(evidence',
        ),
        ("ranks=(1, 4)", "ranks=(1,)"),
        ("keep=0.1", "keep=0.5"),
    ):
        code = code.replace(whole, part)
    return code


def test_the_code_of_the_readme_runs(smollm2, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, *others = python_blocks()
    assert fewer(first).count("72") == 2
    scope: dict = {}
    exec(compile(fewer(first), "README.md", "exec"), scope)
    for block in others:
        exec(compile(fewer(block), "README.md", "exec"), scope)
    assert len(scope["evidence"].found) == 1 and scope["swept"].frame["error"].isna().all()
    assert len(scope["scores"]) == 8 and scope["scores"][0].n == 24
    printed = capsys.readouterr().out
    assert "DAS" in printed and "whole vector" in printed and "untouched model" in printed
    assert "⟦" in printed  # the tokens that are edited, marked
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "my_intervention" / "interventions.safetensors").is_file()
    assert scope["mine"].num_rows == 1
