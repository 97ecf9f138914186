"""Rows and settings that cannot be trained on: each is told of early, with the row's number."""

import json
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_dataset

from reft_interp.interventions import DistributedInterchange, LoReFT
from reft_interp.models import wrap_model
from reft_interp.runtime import EditedSource, IntervenedModel, Placement
from reft_interp.runtime.batching import as_list
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.sources import Sources
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.tasks.suites.templates import chat_prompt
from reft_interp.training import ReFTResult, fit_reft, train

GOOD = [
    {"prompt": "The key near the doors", "answer": " is"},
    {"prompt": "The keys near the doors", "answer": " are"},
]


def fit(model, rows: Any = GOOD, on: Any = "l1", **options: Any) -> ReFTResult:
    settings = {"progress": False, "epochs": 1} | options
    return fit_reft(model, rows, LoReFT(2), Site("resid_post", 0), on, **settings)


@pytest.fixture
def read(tmp_path):
    """Rows as a file of them is read."""

    def from_file(*rows: dict[str, Any]) -> Dataset:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        found = load_dataset("json", data_files=str(file), cache_dir=str(tmp_path), split="train")
        assert isinstance(found, Dataset)
        return found

    return from_file


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([{"question": "Q", "output": " a"}], ValueError, r"row 0 has no 'prompt', only .*'quest"),
        ([{"prompt": "Q", "output": " a"}], ValueError, r"row 0 has no 'answer', only \['output'"),
        ([*GOOD, {"prompt": "Paris"}], TypeError, "row 2 must have text as its 'answer', got None"),
        ([*GOOD, {"prompt": "Paris", "answer": ""}], ValueError, "answers: row 2 is an empty"),
        ([*GOOD, {"answer": " is"}], TypeError, "row 2 must have a text as its prompt, got None"),
    ],
)
def test_columns_that_are_missing_renamed_or_empty(tiny, read, bad, error, message):
    with pytest.raises(error, match=message):
        fit(tiny("llama"), read(*bad))


def test_tables_that_are_no_rows():
    splits = DatasetDict({"train": Dataset.from_list(GOOD), "dev": Dataset.from_list(GOOD)})
    with pytest.raises(
        TypeError, match=r"DatasetDict: give one of its splits, \['train'\], \['dev"
    ):
        as_list.__wrapped__(splits)  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ([0, 6], r"indices:0,6: index 6 is out of range in the prompt of row 0 \(6 tokens\)"),
        ("subject", r"no span 'subject' \(there are: none\) in the prompt of row 0"),
    ],
)
def test_positions_that_a_prompt_does_not_have(tiny, on, message):
    with pytest.raises(ValueError, match=message):
        fit(tiny("llama"), on=on)


def test_a_tokenizer_without_a_padding_token_pads_all_the_same(tiny, tiny_parts):
    hf_model, tokenizer = tiny_parts("qwen2")
    tokenizer.pad_token = tokenizer.eos_token = None
    without = wrap_model(hf_model, tokenizer, name="no padding token")
    rows = [*GOOD, {"prompt": "Paris", "answer": " is a city"}]
    losses = fit(without, rows).losses["loss"].tolist()
    assert losses == pytest.approx(fit(tiny("qwen2"), rows).losses["loss"].tolist(), abs=1e-5)
    with pytest.raises(ValueError, match="must have a chat template"):
        chat_prompt(tokenizer, "Where is Paris?")


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("learning_rate", -1.0, "above 0"),
        ("learning_rate", float("nan"), "above 0"),
        ("batch_size", 0, "above 0"),
    ],
)
def test_numbers_that_make_no_steps(tiny, name, value, least):
    with pytest.raises(ValueError, match=f"{name} must be {least}, got {value}"):
        fit(tiny("llama"), **{name: value})


def test_a_training_goes_on_with_its_own_rows_steps_and_seed_alone(tiny, tmp_path):
    model = tiny("llama")
    rows = [row | {"choices": [" is", " are"]} for row in GOOD]
    turned = [row | {"choices": [" are", " is"]} for row in GOOD]
    fit(model, rows, checkpoints=tmp_path)
    for name, given, options in (
        ("rows", rows[::-1], {}),
        ("rows", turned, {}),
        ("over=", rows, {"over": "choices"}),
        ("rows a step", rows, {"batch_size": 1}),
        ("seed", rows, {"seed": 3}),
    ):
        with pytest.raises(ValueError, match=rf"checkpoint-1 was written by .* other {name} \("):
            fit(model, given, epochs=2, checkpoints=tmp_path, resume=True, **options)
    assert len(fit(model, rows, epochs=2, checkpoints=tmp_path, resume=True).losses) == 2


@pytest.mark.parametrize("chooses", [True, False])
def test_epochs_are_chosen_by_the_losses_of_the_same_rows(tiny, tmp_path, chooses):
    """Losses of other rows are no better or worse; where nothing is chosen by them, they may be."""
    model, options = tiny("llama"), {"checkpoints": tmp_path, "load_best_model_at_end": chooses}
    fit(model, evaluation=GOOD, **options)
    again = {"epochs": 2, "resume": True, **options}
    if chooses:
        with pytest.raises(ValueError, match=r"by a .* with other rows to choose an epoch on \("):
            fit(model, evaluation=GOOD[:1], **again)
    else:
        fit(model, evaluation=GOOD[:1], **again)
    assert len(fit(model, evaluation=GOOD, **again).losses) == 2


def test_a_training_goes_on_with_its_own_sources_alone(tiny, tmp_path):
    model = tiny("llama")
    edit = DistributedInterchange(Subspace.random(32, 2, seed=0), trainable=True)
    swapped = IntervenedModel(model, Placement(edit, Site("resid_post", 0), "last"))
    prompts = [row["prompt"] for row in GOOD]
    other = EditedSource(fit(model, epochs=1).intervened, prompts)

    def go_on(sources: Sources, **options: Any) -> int:
        rows = PreparedRows(swapped, GOOD, sources)
        return len(train(swapped, rows, checkpoints=tmp_path, progress=False, **options))

    go_on(prompts[::-1])
    for sources in (prompts, other):
        with pytest.raises(ValueError, match=r"by a training with other sources \("):
            go_on(sources, epochs=2, resume=True)
    assert go_on({"source": prompts[::-1]}, epochs=2, resume=True) == 2


def test_a_result_of_another_model_or_a_damaged_one(tiny, make_tiny, tmp_path):
    fit(tiny("llama")).save(tmp_path)
    for other, told in (
        ({"num_hidden_layers": 3}, "n_layers 3"),
        ({"hidden_size": 64}, "d_model 64"),
    ):
        with pytest.raises(ValueError, match=rf"was made for tiny-llama .*{told}"):
            ReFTResult.load(tmp_path, make_tiny("llama", **other))
    for name in ("interventions.safetensors", "config.json"):
        file = tmp_path / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            ReFTResult.load(tmp_path, tiny("llama"))
        file.unlink()
        with pytest.raises(FileNotFoundError, match=f"there is no {name} in it"):
            ReFTResult.load(tmp_path, tiny("llama"))
        file.write_bytes(whole)
