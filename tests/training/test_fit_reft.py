"""The one call that trains a ReFT, and what it gives back."""

from typing import Any

import numpy as np
import pytest
import torch
from begun_steps import BegunSteps
from datasets import Dataset
from transformers import TrainerCallback

from reft_interp.evaluation import accuracy
from reft_interp.interventions import LoReFT
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.saving import read_notes
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import ReFTResult, fit_classifier, fit_reft

NOUNS = ["key", "door", "film", "car", "book", "city", "store", "table"]
ROWS = [
    {
        "prompt": f"The {other} near the {noun}{plural}",
        "answer": " are" if plural else " is",
        "choices": [" is", " are"],
    }
    for noun in NOUNS
    for plural in ("", "s")
    for other in ("cars", "door")
]


def fit(model, rows=ROWS, site=None, **options):
    settings = {"epochs": 20, "learning_rate": 5e-2, "progress": False} | options
    return fit_reft(model, rows, LoReFT(4), site or Site("resid_post", 0), "l2", **settings)


def test_learns_what_the_untouched_model_does_not_know(tiny):
    model = tiny("llama")
    result = fit(model)
    before, after = accuracy(model, ROWS), accuracy(result.intervened, ROWS)
    assert before.value <= 0.7 < 0.95 <= after.value
    found = result.evaluate(ROWS)
    assert found["untouched model"] == (before,) and found["LoReFT"] == (after,)
    assert result.name == "LoReFT"


def test_the_same_seed_gives_the_same_result(tiny):
    model = tiny("llama")
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        results.append(fit(model, epochs=1, seed=seed).intervened.state_dict())
    for one, same, other in zip(*(state.values() for state in results), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_one_module_for_each_site_or_one_for_all(tiny):
    sites = [Site("resid_post", 0), Site("mlp_out", 1)]
    apart = fit(tiny("llama"), site=sites, epochs=1).intervened
    together = fit(tiny("llama"), site=sites, epochs=1, shared=True).intervened
    assert len(apart.interventions) == 2 and len(together.interventions) == 1
    assert apart.trained_parameters == 2 * together.trained_parameters
    assert [placement.site for placement in together.placements] == sites


@pytest.mark.parametrize("classes", [False, True])
def test_what_has_begun_goes_on_itself_or_in_a_copy_for_each_of_several_sites(tiny, classes):
    model, sites = tiny("llama"), [Site("resid_post", 0), Site("mlp_out", 1)]
    rows = [row | {"label": i % 2} for i, row in enumerate(ROWS)]

    def intervened(begun, site, **options) -> Any:
        given = {"epochs": 1, "progress": False, "learning_rate": 5e-2} | options
        if classes:
            return fit_classifier(model, rows, begun, site, "l2", **given).classifier.intervened
        return fit_reft(model, rows, begun, site, "l2", **given).intervened

    start = Subspace.random(32, 2, seed=0)
    alone, begun, shared = (LoReFT(start=start) for _ in range(3))
    assert list(intervened(alone, sites[0]).interventions) == [alone]
    assert list(intervened(shared, sites, shared=True).interventions) == [shared]
    found = list(intervened(begun, sites).interventions)
    assert len(found) == 2 and begun not in found
    assert torch.equal(begun.subspace.basis, LoReFT(start=start).subspace.basis)
    overlaps = [one.subspace.overlap(other.subspace) for one, other in ((begun, found[0]), found)]
    assert max(overlaps) < 0.9999


def test_saves_what_it_was_trained_with(tiny, tmp_path):
    result = fit(tiny("llama"), epochs=1, seed=5)
    result.save(tmp_path)
    assert read_notes(tmp_path)["training"] == result.settings
    assert result.settings == {
        "epochs": 1,
        "learning_rate": 5e-2,
        "batch_size": 16,
        "seed": 5,
        "rows": len(ROWS),
        "shared": False,
        "engine": "auto",
        "over": "vocabulary",
    }
    loaded = IntervenedModel.load(tmp_path, tiny("llama"))
    assert torch.equal(loaded.logits(ROWS[:3]), result.intervened.logits(ROWS[:3]))


def test_callbacks_are_no_setting_and_what_cannot_be_saved_is_refused_first(
    tiny, tmp_path, no_type_checks
):
    begun = BegunSteps()
    model = tiny("llama")
    result = fit(model, epochs=1, learning_rate=np.float32(0.25), callbacks=[begun])
    result.save(tmp_path)
    assert ReFTResult.load(tmp_path, model).settings == result.settings
    assert result.settings["learning_rate"] == 0.25 and "callbacks" not in result.settings
    steps = len(begun.steps)
    assert steps == 2
    with pytest.raises(TypeError, match="debug must be a number, a text"):
        fit(model, epochs=1, callbacks=[begun], debug=[object()])
    assert len(begun.steps) == steps


def test_a_saved_result_is_read_back_whole(tiny, tmp_path):
    result = fit(tiny("llama"), epochs=1)
    result.save(tmp_path)
    again = ReFTResult.load(tmp_path, tiny("llama"))
    assert again.settings == result.settings
    assert again.losses["loss"].tolist() == pytest.approx(result.losses["loss"].tolist())
    assert again.subspace.overlap(result.subspace) == pytest.approx(1.0)
    result.intervened.save(tmp_path / "untold")
    with pytest.raises(ValueError, match="nothing of how they were trained"):
        ReFTResult.load(tmp_path / "untold", tiny("llama"))


def test_several_placements_have_no_single_subspace(tiny):
    result = fit(tiny("llama"), site=[Site("resid_post", 0), Site("mlp_out", 1)], epochs=1)
    with pytest.raises(ValueError, match="2 placements, each with a subspace"):
        _ = result.subspace


def test_evaluates_each_epoch_and_resumes(tiny, tmp_path):
    seen = []

    class Evaluated(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            seen.append((metrics or {})["eval_loss"])

    options = {"evaluation": Dataset.from_list(ROWS[:4]), "callbacks": [Evaluated()]}
    whole = fit(tiny("llama"), epochs=2, checkpoints=tmp_path, **options)
    assert len(seen) == 2 and seen[1] < seen[0]
    assert seen[1] == pytest.approx(whole.intervened.loss(ROWS[:4]).item(), abs=1e-4)
    again = fit(tiny("llama"), epochs=2, checkpoints=tmp_path, resume=True, **options)
    for one, two in zip(whole.intervened.parameters(), again.intervened.parameters(), strict=True):
        assert torch.equal(one, two)


def test_mistakes_are_found_before_the_first_step(tiny):
    model = tiny("llama")
    with pytest.raises(ValueError, match="site must be at least one Site, got none"):
        fit_reft(model, ROWS, LoReFT(4), [], "f1")
    with pytest.raises(ValueError, match="layer must be between 0 and 1"):
        fit(model, site=Site("resid_post", 2))
    with pytest.raises(ValueError, match="has no 'answer'"):
        fit(model, rows=[{"prompt": "The"}])


def test_numbers_of_numpy_train_as_pythons_do(tiny, tmp_path, no_type_checks):
    """Python's `random` seeds itself with no others, and no checkpoint holds others."""
    numbers = {"seed": 1, "batch_size": 8, "epochs": 1, "save_steps": 5}
    given = {name: np.int64(number) for name, number in numbers.items()}
    rate = np.float32(0.25)  # which float64 holds exactly
    options = {"save_strategy": "steps", "checkpoints": tmp_path / "there"}
    found = fit(tiny("llama"), learning_rate=rate, **given, **options)
    same = fit(tiny("llama"), learning_rate=0.25, **numbers)
    for one, other in zip(*(r.intervened.parameters() for r in (found, same)), strict=True):
        assert torch.equal(one, other)
    assert (tmp_path / "there" / "checkpoint-4" / "trainer_state.json").is_file()
    assert found.settings == same.settings | {"save_strategy": "steps"}
    found.save(tmp_path / "saved")
    with pytest.raises(TypeError, match=r"seed must be a whole number, got 0\.5"):
        fit(tiny("llama"), seed=0.5)
    with pytest.raises(ValueError, match="seed must be at least 0 and below"):
        fit(tiny("llama"), seed=-1)
