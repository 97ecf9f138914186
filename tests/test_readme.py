"""The README's Python runs as it stands, on fewer rows."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def fewer(code: str) -> str:
    """The same code with an eighth of the rows, so that it is a matter of a minute."""
    assert "n=600" in code and "number_naming()" in code
    return code.replace("n=600", "n=72").replace("number_naming()", "number_naming(72, 24)")


def test_the_code_of_the_readme_runs(smollm2, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, *others = python_blocks()
    scope: dict = {}
    exec(compile(fewer(first), "README.md", "exec"), scope)
    for block in others:
        exec(compile(block, "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert "DAS" in printed and "whole vector" in printed and "untouched model" in printed
    assert "⟦" in printed  # the tokens that are edited, marked
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "my_intervention" / "interventions.safetensors").is_file()
    assert scope["mine"].num_rows == 1
