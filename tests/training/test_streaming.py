"""Training on a stream: what a training on the same rows in the same order gives."""

import json
import shutil

import pytest
import torch
from datasets import Dataset, IterableDataset

from reft_interp.interventions import DistributedInterchange, LoReFT
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import fit_reft, streaming, train

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


def test_the_last_step_of_a_pass_takes_the_batches_that_are_left(tiny):
    """Four batches, in steps of three: what is left of a pass is a step, as of rows held."""
    options = {"max_steps": 5, "gradient_accumulation_steps": 3}
    streamed = fit(tiny("llama"), Dataset.from_list(ROWS).to_iterable_dataset(), **options)
    options |= {"engine": "full", "train_sampling_strategy": "sequential"}
    held = fit(tiny("llama"), ROWS, **options)
    assert torch.equal(weights(streamed), weights(held))


@pytest.mark.parametrize(
    ("shuffled", "accumulated", "kept"), [(False, 1, (9, 8, 5)), (True, 3, (5, 4))]
)
def test_a_training_goes_on_in_any_pass_over_a_stream(tiny, tmp_path, shuffled, accumulated, kept):
    """As if never interrupted: in the middle of its second and third pass, and between them."""
    stream = Dataset.from_list(ROWS).to_iterable_dataset()
    if shuffled:
        stream = stream.shuffle(seed=3, buffer_size=6)
    options = {
        "max_steps": kept[0] + 1,
        "gradient_accumulation_steps": accumulated,
        "checkpoints": tmp_path,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    whole = fit(tiny("llama"), stream, **options)
    for step in kept:
        for later in range(step + 1, kept[0] + 2):
            shutil.rmtree(tmp_path / f"checkpoint-{later}")
        resumed = fit(tiny("llama"), stream, resume=True, **options)
        assert torch.equal(weights(resumed), weights(whole))
        assert resumed.losses.equals(whole.losses)


def test_a_checkpoint_of_each_pass_is_gone_on_from_at_the_next(tiny, tmp_path):
    stream = Dataset.from_list(ROWS).to_iterable_dataset().shuffle(seed=3, buffer_size=6)
    options = {"max_steps": 10, "checkpoints": tmp_path}
    whole = fit(tiny("llama"), stream, **options)
    shutil.rmtree(tmp_path / "checkpoint-10")
    assert {one.name for one in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-8"}
    resumed = fit(tiny("llama"), stream, resume=True, **options)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_checkpoint_that_does_not_say_where_in_the_stream_it_was_is_refused(tiny, tmp_path):
    stream = Dataset.from_list(ROWS).to_iterable_dataset()
    fit(tiny("llama"), stream, max_steps=2, checkpoints=tmp_path)
    config = tmp_path / "checkpoint-2" / "config.json"
    saved = json.loads(config.read_text())
    del saved["notes"]["position in the stream"]
    config.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="does not say how far its training had read the stream"):
        fit(tiny("llama"), stream, max_steps=4, checkpoints=tmp_path, resume=True)


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
    with pytest.warns(UserWarning, match="a stream of rows: max_length=32 cut the beginning of so"):
        fit(tiny("llama"), stream, max_steps=2, max_length=32, truncation_side="left")


def test_mistakes_are_told_with_the_number_of_the_row(tiny):
    rows = [*ROWS[:6], {"prompt": "The", "answer": ""}, *ROWS[6:]]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"row 6 of the stream, as a batch of one: answers: row 0"):
        fit(tiny("llama"), stream, max_steps=4)


def test_an_error_that_needs_more_than_a_message_is_told_too(tiny, monkeypatch):
    def undecodable(*args, **options):
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "no text")

    monkeypatch.setattr(streaming, "encode", undecodable)
    stream = Dataset.from_list(ROWS).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"row 0 of the stream, as a batch of one: .*no text"):
        fit(tiny("llama"), stream, max_steps=1)


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
