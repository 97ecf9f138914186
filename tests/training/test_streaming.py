"""Training on a stream: what a training on the same rows in the same order gives."""

import pytest
import torch
from datasets import Dataset, IterableDataset

from reft_interp.interventions import DistributedInterchange, LoReFT
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import fit_reft, train

ROWS = [
    {"prompt": f"The {word} near the {other}", "answer": " are" if word.endswith("s") else " is"}
    for word in ("key", "keys", "door", "doors")
    for other in ("cars", "film", "store", "table")
]
SITE = Site("resid_post", 0)
START = Subspace.random(32, 2, seed=1)


def fit(model, rows, **options):
    settings = {"progress": False, "batch_size": 4, "learning_rate": 1e-2} | options
    return fit_reft(model, rows, LoReFT(start=START), SITE, "l1", **settings)


def weights(result) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in result.intervened.parameters()])


def endless():
    while True:
        yield from ROWS


def test_a_stream_trains_what_rows_in_its_order_train(tiny):
    model = tiny("llama")
    streamed = fit(model, Dataset.from_list(ROWS).to_iterable_dataset(), max_steps=6)
    held = fit(model, ROWS, max_steps=6, engine="full", train_sampling_strategy="sequential")
    assert torch.equal(weights(streamed), weights(held))
    assert streamed.losses["loss"].tolist() == held.losses["loss"].tolist()
    assert streamed.settings["rows"] is None


def test_a_stream_has_no_end(tiny, tmp_path):
    """It is read as far as the steps go, and on from there when the training goes on."""
    stream = IterableDataset.from_generator(endless)
    whole = fit(tiny("llama"), stream, max_steps=6, seed=0)
    options = {"checkpoints": tmp_path, "save_strategy": "steps", "save_steps": 3}
    fit(tiny("llama"), stream, max_steps=6, **options)
    (tmp_path / "checkpoint-6" / "trainer_state.json").unlink()
    with pytest.warns(UserWarning, match="going on from .*checkpoint-3"):
        resumed = fit(tiny("llama"), stream, max_steps=6, resume=True, **options)
    assert torch.equal(weights(resumed), weights(whole))


def test_its_rows_are_cut_where_asked(tiny):
    long = [row | {"prompt": "The film was good. " * 40 + row["prompt"]} for row in ROWS]
    stream = Dataset.from_list(long).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"row 0 of the stream, .*and tiny-llama can read 128"):
        fit(tiny("llama"), stream, max_steps=2)
    fit(tiny("llama"), stream, max_steps=2, max_length=32, truncation_side="left")


def test_mistakes_are_told_with_the_number_of_the_row(tiny):
    rows = [*ROWS[:6], {"prompt": "The", "answer": ""}, *ROWS[6:]]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"row 6 of the stream, as a batch of one: answers: row 0"):
        fit(tiny("llama"), stream, max_steps=4)


def test_what_a_stream_cannot_do_is_refused(tiny, monkeypatch):
    stream = Dataset.from_list(ROWS).to_iterable_dataset()
    with pytest.raises(ValueError, match="max_steps must be given: rows are a stream"):
        fit(tiny("llama"), stream)
    with pytest.raises(ValueError, match='over must be "vocabulary" where rows are a stream'):
        fit(tiny("llama"), stream, max_steps=2, over="choices")
    swap = DistributedInterchange(START, trainable=True)
    swapped = IntervenedModel(tiny("llama"), Placement(swap, SITE, "l1"))
    with pytest.raises(ValueError, match="needs a source for each row, and a stream has none"):
        train(swapped, stream, max_steps=2, progress=False)
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 2)
    with pytest.raises(ValueError, match="several processes cannot share evenly"):
        fit(tiny("llama"), stream, max_steps=2)
