"""The package as a whole: what importing it loads, what it offers."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import reft_interp as ri

# The lazy loader makes it; the stub, which type checkers read, lists the names themselves.
PUBLIC: list[str] = vars(ri)["__all__"]


def _modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_torch():
    loaded = _modules_after("import reft_interp")
    assert "reft_interp" in loaded
    assert "torch" not in loaded and "transformers" not in loaded


def test_asking_for_a_name_loads_what_it_needs():
    assert "torch" in _modules_after("from reft_interp import Subspace")


def test_suites_are_there_without_being_imported():
    assert "reft_interp.tasks.suites.glue" in _modules_after(
        "import reft_interp as ri\nri.tasks.suites.glue"
    )


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert ri.__version__ == project["version"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name):
    thing = getattr(ri, name)
    assert thing.__doc__ and len(thing.__doc__) > 20


@pytest.mark.parametrize(
    ("wrong", "meant"), [("LoReft", "LoReFT"), ("loadmodel", "load_model"), ("xyzzy", None)]
)
def test_a_misspelt_name_is_told_what_it_may_mean(wrong, meant):
    with pytest.raises(AttributeError, match=f"^reft_interp has no {wrong!r}") as told:
        getattr(ri, wrong)
    assert (f"did you mean {meant!r}" in str(told.value)) == (meant is not None)


def test_the_public_names_are_in_dir():
    assert set(PUBLIC) <= set(dir(ri))
    assert {"load_model", "fit_das", "fit_reft", "probe", "Site", "Subspace"} <= set(PUBLIC)
