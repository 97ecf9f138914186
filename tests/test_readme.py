"""The README's Python runs as it stands, on fewer rows."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


FEWER = (
    ("n=600", "n=36"),
    ("n=60,", "n=12,"),
    ("number_naming()", "number_naming(24, 12)"),
    ("(2, 11, 20, 29)", "(20,)"),
    ("range(30)", "(12,)"),
    (
        '"subject", rank=4)\nprint(evidence',
        '"subject", rank=4, seeds=1, resamples=0, random_subspaces=2, epochs=1)\nprint(evidence',
    ),
    ("ranks=(1, 4)", "ranks=(1,), epochs=1"),
    ("keep=0.1", "keep=0.5"),
    ("n_train=500, n_test=200, n_development=100", "n_train=8, n_test=4, n_development=4"),
    ("Budget(steps=60)", "Budget(steps=2, batch_size=4, trials=1, seeds=(0,))"),
    ('[own, "DiReFT", "LoRA"]', '[own, "LoRA"]'),
    (
        "table.probe(model, suite)",
        "ri.compare_subspaces(table, model, suite, pairs=8, epochs=1, draws=1)",
    ),
)


def fewer(code: str) -> str:
    """The same code with a fraction of the rows and few layers, so that it is a matter of a
    minute."""
    for whole, part in FEWER:
        code = code.replace(whole, part)
    return code


def test_what_is_made_less_is_in_the_readme():
    code = "".join(python_blocks())
    for whole, part in FEWER:
        assert whole in code, f"{whole!r} is written in another way now: {part!r} replaces nothing"
        code = code.replace(whole, part)


def test_the_code_of_the_readme_runs(smollm2, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    glue = tmp_path / "path" / "to" / "glue"
    glue.mkdir(parents=True)
    for split, what in (("train", "film"), ("dev", "play")):
        lines = (f"a {'fine' if i % 2 else 'bad'} {what} {i}\t{i % 2}\n" for i in range(24))
        (glue / f"sst2.{split}.tsv").write_text("".join(lines))
    first, *others = python_blocks()
    assert fewer(first).count("n=36") == fewer(first).count("number_naming(24, 12)") == 1
    scope: dict = {}
    exec(compile(fewer(first), "README.md", "exec"), scope)
    for block in others:
        exec(compile(fewer(block), "README.md", "exec"), scope)
    assert len(scope["evidence"].found) == 1 and scope["swept"].frame["error"].isna().all()
    assert len(scope["scores"]) == 4 and scope["scores"][0].n == 12
    printed = capsys.readouterr().out
    assert "DAS" in printed and "whole vector" in printed and "untouched model" in printed
    assert "⟦" in printed  # the tokens that are edited, marked
    assert (tmp_path / "probed" / "report.html").is_file()
    assert (tmp_path / "evidence" / "interchange" / "losses.csv").is_file()
    assert (tmp_path / "my_intervention" / "interventions.safetensors").is_file()
    assert (len(scope["mine"].train), scope["mine"].model) == (2, "smollm2")
    assert list(scope["table"].frame["method"]) == ["untouched", "LoReFT", "LoRA"]
    assert (tmp_path / "sst2" / "probe" / "report.html").is_file()
    assert (tmp_path / "exported" / "edits.py").is_file()
    assert (tmp_path / "for_pyreft" / "config.json").is_file()
