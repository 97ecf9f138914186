import pytest

from reft_interp.models import load_model, versions
from reft_interp.models.versions import installed, library_versions, refuse_broken_versions


@pytest.mark.parametrize("version", ["5.24.0", "5.24.1", "6.0.0"])
def test_a_pair_known_to_be_broken_is_refused_before_anything_is_loaded(monkeypatch, version):
    monkeypatch.setattr(versions.transformers, "__version__", version)
    with pytest.raises(RuntimeError, match=rf"transformers {version} with transformer-lens 4\.3"):
        load_model("no/such-model")


@pytest.mark.parametrize("version", ["5.9.0", "5.23.0"])
def test_a_pair_that_works_is_not(monkeypatch, version):
    monkeypatch.setattr(versions.transformers, "__version__", version)
    assert library_versions()[0] == version
    refuse_broken_versions()  # raises nothing


def test_versions_are_those_of_the_installed_libraries():
    assert library_versions() == (versions.transformers.__version__, installed("transformer-lens"))
    assert installed("no-such-package") is None
