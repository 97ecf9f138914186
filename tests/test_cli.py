"""The command line: help, mistakes, and what it passes on."""

import runpy
import sys

import pytest
from typer.testing import CliRunner

from reft_interp.cli import app


@pytest.mark.parametrize("command", ["demo", "doctor"])
def test_help_says_what_a_command_does(command):
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert {"demo": "Find a causal variable", "doctor": "Print versions"}[command] in shown.output


def test_a_mistake_is_a_sentence_and_no_traceback(tmp_path):
    missing = tmp_path / "nowhere"
    said = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--data", str(missing)])
    assert said.exit_code == 2
    assert "error: path_or_hub_name must be a folder" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_module_runs_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reft_interp", "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("reft_interp", run_name="__main__")
    assert left.value.code == 0
    assert "doctor" in capsys.readouterr().out


def test_doctor_exits_with_what_it_found(smollm2):
    said = CliRunner().invoke(app, ["doctor"])
    assert said.exit_code == 0
    assert "transformer-lens" in said.output.lower() or "transformer_lens" in said.output.lower()
