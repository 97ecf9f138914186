"""Methods behind one interface: each ends where what it stands for would end."""

import copy
import gc
import math
import sys
import time
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from reft_interp.encoding import prompt_tokens
from reft_interp.interventions import RED, DiReFT, LoReFT
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import encode
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import finetuning, fit_reft, memory, reft_method
from reft_interp.training.finetuning import Constants, Schedule
from reft_interp.training.linear_head import LinearHead, last_states
from reft_interp.training.loss_curve import LossCurve
from reft_interp.training.memory import Peak, peak_memory
from reft_interp.training.prompting import FewShot, MostFrequentAnswer, Prompted, Untouched
from reft_interp.training.reft_method import IntervenedFinetuned, ReFT

ROWS = [
    {"prompt": prompt, "answer": answer}
    for prompt, answer in [
        ("The key near the doors", " is"),
        ("The keys to the old cabinet", " are"),
        ("The film was", " good"),
        ("Paris is a city in", " France and Japan"),
    ]
]


def loss_by_hand(model, rows) -> float:
    """Row by row, without padding."""
    total, count = 0.0, 0
    for row in rows:
        prompt = model.tokenizer(row["prompt"])["input_ids"]
        answer = model.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer]))[0]
        at = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        total += float(cross_entropy(logits[at], torch.tensor(answer), reduction="sum"))
        count += len(answer)
    return total / count


def test_a_reft_ends_where_fit_reft_ends(tiny):
    model = tiny("llama")
    method = ReFT(LoReFT(rank=2), (0, 1), "f1+l1")
    found: Any = method.fit(
        model, ROWS, Schedule(4, batch_size=2, learning_rate=1e-2, seed=3), development=ROWS,
        measured_after=(2, 4),
    )  # fmt: skip
    alone = fit_reft(
        model, ROWS, LoReFT(rank=2), [Site("resid_post", 0), Site("resid_post", 1)], "f1+l1",
        epochs=2, batch_size=2, learning_rate=1e-2, seed=3, progress=False,
    )  # fmt: skip
    ours = found.finetuned.intervened.state_dict()
    for name, tensor in alone.intervened.state_dict().items():
        assert torch.allclose(ours[name], tensor, atol=1e-6), name
    assert found.finetuned.trained_parameters == alone.intervened.trained_parameters
    assert [step for step, _, _ in found.curve] == [2, 4]
    assert found.curve[-1][2] == pytest.approx(found.finetuned.loss(ROWS), abs=1e-6)
    tokens = [len(encode(model, [row], answers=True).answer_offsets[0]) for row in ROWS]
    each = [alone.intervened.loss([row]).item() for row in ROWS]
    assert found.finetuned.loss(ROWS) == pytest.approx(np.average(each, weights=tokens), abs=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_each_training_of_a_method_begins_where_its_intervention_does(tiny, tied):
    model, start = tiny("llama"), Subspace.random(32, 2, seed=0)

    def method():
        return ReFT(LoReFT(start=start), (0, 1), "f1+l1", tied=tied)

    def fit(method, seed) -> Any:
        return method.fit(model, ROWS, Schedule(6, batch_size=2, learning_rate=0.05, seed=seed))

    same, ends, kept = method(), [], []
    for seed in (0, 0, 1):
        ends.append(fit(same, seed).finetuned)
        kept.append(copy.deepcopy(ends[-1].intervened.state_dict()))
    for seed, end, then in zip((0, 0, 1), ends, kept, strict=True):
        fresh = fit(method(), seed).finetuned.intervened
        assert len(fresh.interventions) == (2 if tied else 4)
        for name, tensor in fresh.state_dict().items():
            assert torch.equal(end.intervened.state_dict()[name], tensor), (seed, name)
            assert torch.equal(then[name], tensor), (seed, name)
    assert same.intervention.subspace.overlap(start) == pytest.approx(1.0)
    losses = [end.loss(ROWS) for end in ends]
    assert losses[0] == losses[1] != losses[2]


def test_untied_weights_are_one_intervention_for_each_end(tiny):
    model = tiny("llama")
    tied = ReFT(LoReFT(rank=2), on="f2+l3").placements(model)
    untied = ReFT(LoReFT(rank=2), on="f2+l3", tied=False).placements(model)
    assert [str(one.on) for one in tied] == ["f2+l3"] * 2
    assert [(one.site.layer, str(one.on)) for one in untied] == [
        (layer, f"{end} rounding=paired") for layer in (0, 1) for end in ("f2", "l3")
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"tied=False needs first and last tokens.*got 'l3'"):
        ReFT(LoReFT(rank=2), on="l3", tied=False)


@pytest.mark.parametrize("on", ["f3+l3", "f2+l1 of=answer", "f1+l2 rounding=pyreft edit=x"])
def test_untied_copies_of_one_intervention_do_what_it_does_tied(tiny, tmp_path, on):
    model, made = tiny("llama"), DiReFT(rank=2, width=32)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    rows = [{**row, "edits": "x"} for row in ROWS]
    if "pyreft" not in on:  # which edits nothing of a single token, and says so
        rows.append({"prompt": "Yes", "answer": " is", "edits": "x"})
    tied, untied = (
        IntervenedModel(model, ReFT(made, on=on, tied=tied).placements(model))
        for tied in (True, False)
    )
    losses = [tied.loss([row]).item() for row in rows]
    plain = [Prompted(model).loss([row]) for row in rows]
    assert [untied.loss([row]).item() for row in rows] == pytest.approx(losses, abs=1e-5)
    assert losses != pytest.approx(plain, abs=1e-2)
    untied.save(tmp_path)
    loaded = IntervenedModel.load(tmp_path, model)
    assert [loaded.loss([row]).item() for row in rows] == pytest.approx(losses, abs=1e-5)
    assert [str(one.on) for one in loaded.placements] == [str(one.on) for one in untied.placements]


def test_what_is_saved_answers_the_same(tiny, tmp_path):
    model = tiny("llama")
    found: Any = ReFT(DiReFT(rank=2), (1,), "l2").fit(model, ROWS, Schedule(20, batch_size=4))
    found.finetuned.save(tmp_path)
    options = {"batch_size": 2, "max_new_tokens": 4, "do_sample": False}
    texts = found.finetuned.generate(ROWS, **options)
    loaded = IntervenedFinetuned(IntervenedModel.load(tmp_path, model))
    assert loaded.generate(ROWS, **options) == texts
    assert texts != Prompted(model).generate(ROWS, **options)
    assert texts == [found.finetuned.generate([row], **options)[0] for row in ROWS]


def test_red_on_every_token_is_trained(tiny):
    method = ReFT(RED(), on="every", component="mlp_out")
    found: Any = method.fit(tiny("llama"), ROWS, Schedule(20, batch_size=4, learning_rate=1e-2))
    assert found.finetuned.loss(ROWS) < Prompted(tiny("llama")).loss(ROWS) - 0.1
    assert found.finetuned.trained_parameters == 2 * 2 * 32


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_untouched_model_is_the_model(tiny, architecture):
    model = tiny(architecture)
    found: Any = Untouched().fit(model, ROWS, Schedule(1)).finetuned
    assert found.loss(ROWS) == pytest.approx(loss_by_hand(model, ROWS), abs=1e-5)
    assert found.trained_parameters == 0


def test_a_few_examples_stand_before_each_prompt(tiny):
    model = tiny("llama")
    rows = [{**row, "answer": row["answer"] + "</s>"} for row in ROWS]
    found: Any = FewShot(2).fit(model, rows, Schedule(1, seed=1)).finetuned
    shown = found.before.split("\n\n")
    assert len(shown) == 3 and shown[-1] == "" and "</s>" not in found.before
    assert set(shown[:2]) <= {row["prompt"] + row["answer"] for row in ROWS}
    asked = [{**row, "prompt": found.before + row["prompt"]} for row in ROWS]
    assert found.loss(ROWS) == pytest.approx(loss_by_hand(model, asked), abs=1e-5)
    other: Any = FewShot(2).fit(model, rows, Schedule(1, seed=2)).finetuned
    assert other.before != found.before
    with pytest.raises(ValueError, match=r"examples must be at most 4 rows, got 5"):
        FewShot(5).fit(model, rows, Schedule(1))


def test_examples_stand_behind_the_bos_that_prompts_begin_with(tiny):
    """As chat templates write it; every prompt had its own in the middle of the text."""
    model = tiny("llama")
    plain = FewShot(2).fit(model, ROWS, Schedule(1)).finetuned
    bos, rows = (
        model.tokenizer.bos_token_id,
        [{**row, "prompt": "<s>" + row["prompt"]} for row in ROWS],
    )
    found: Any = FewShot(2).fit(model, rows, Schedule(1)).finetuned
    for row in found._asked(rows):
        [ids], *_ = prompt_tokens(model.tokenizer, [row["prompt"]])
        assert ids[0] == bos and ids.count(bos) == 1
    assert found.loss(rows) == pytest.approx(plain.loss(ROWS), abs=1e-4)
    assert found.before in found._asked(rows)[0]["prompt"]


def test_the_most_frequent_answer_is_given_to_every_prompt(tiny):
    answers = [" is</s>", " are</s>", " are</s>"]  # the second of them is the more frequent one
    rows = [{"prompt": f"The {i}", "answer": answer} for i, answer in enumerate(answers)]
    found: Any = MostFrequentAnswer().fit(tiny("llama"), rows, Schedule(1)).finetuned
    assert found.generate(ROWS, batch_size=3, max_new_tokens=1) == [" are"] * 4
    assert found.trained_parameters == 0
    assert found.loss([ROWS[1]]) == 0 and found.loss(ROWS) == float("inf")
    # As a comparison gives a decoder its rows: with the end of the text behind the answer.
    assert found.loss(rows[1:]) == 0 and found.loss(rows) == float("inf")


def planted_rows(n: int) -> list[dict]:
    """The last word of the prompt says which answer is right."""
    words = [(" key", " is"), (" keys", " are")]
    said = ["The old", "Near the doors the", "A long", "In Japan the"]
    return [{"prompt": said[i % 4] + words[i % 2][0], "answer": words[i % 2][1]} for i in range(n)]


def test_a_linear_head_reads_what_the_last_state_holds(tiny, tmp_path):
    model = tiny("llama")
    rows = planted_rows(24)
    fit: Any = LinearHead().fit(model, rows, Schedule(1, learning_rate=1.0))
    answers = fit.finetuned.generate(rows[:6], batch_size=4)
    assert answers == [row["answer"] for row in rows[:6]]
    assert fit.finetuned.trained_parameters == 32 + 1
    fit.finetuned.save(tmp_path)
    assert (tmp_path / "readout.safetensors").is_file()
    loss = -np.log(fit.finetuned.readout.predict_proba(fit.finetuned._features(rows[:1])))[0]
    other = {"prompt": "The key", "answer": " was"}
    assert fit.finetuned.loss([rows[0], other]) == pytest.approx(loss[1])  # " are" < " is"
    assert fit.finetuned.loss([other]) == math.inf
    with pytest.raises(ValueError, match=r"needs a few answers that recur, got 4 different ones"):
        LinearHead().fit(model, ROWS, Schedule(1))


def test_last_states_are_those_at_the_prompts_last_token(tiny):
    model = tiny("gpt2")
    held = last_states(model, ROWS, batch_size=2)
    for row, state in zip(ROWS, held, strict=True):
        ids = torch.tensor([model.tokenizer(row["prompt"])["input_ids"]])
        _, cache = model.run_with_cache(ids)
        assert np.allclose(state, cache["blocks.1.hook_resid_post"][0, -1].numpy(), atol=1e-5)


def test_the_clock_stands_while_the_loss_is_measured(tiny):
    def slow() -> float:
        time.sleep(0.3)
        return 1.5

    curve: Any = LossCurve(slow, after=(1,))
    state, model = type("State", (), {"global_step": 1}), torch.nn.Linear(1, 1).eval()
    curve.on_train_begin(None, state, None)
    curve.on_step_end(None, state, None, model=model)
    curve.on_train_end(None, state, None)
    assert curve.seconds < 0.2 and model.training
    assert [(step, loss) for step, _, loss in curve.points] == [(1, 1.5)]


class _Circle:
    """Refers to itself, so that only the garbage collector frees what it holds."""

    def __init__(self) -> None:
        self.me, self.held = self, torch.ones(80, 2**20)  # 320 MiB


def test_memory_at_its_peak_is_what_was_held():
    _Circle()
    with peak_memory(torch.device("cpu")) as peak:
        gc.collect()
        held = torch.ones(64, 2**20)  # 256 MiB
        assert float(held[0, 0]) == 1.0
        del held
    if peak.bytes is None:
        pytest.skip("there is no /proc on this machine")
    assert 200 * 2**20 < peak.bytes < 400 * 2**20


def test_memory_is_not_known_where_its_high_water_mark_cannot_be_reset(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_RESET", tmp_path / "not there" / "clear_refs")
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.bytes is None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_was_freed_before_counts_when_it_is_filled_again():
    small = [torch.ones(2**12) for _ in range(10_000)]  # 160 MiB, from the heap
    kept = small[::1000]
    del small
    with peak_memory(torch.device("cpu")) as peak:
        again = [torch.ones(2**12) for _ in range(10_000)]
    assert len(kept) == 10 and len(again) == 10_000
    if peak.bytes is None:
        pytest.skip("there is no /proc on this machine")
    assert peak.bytes > 130 * 2**20


@pytest.mark.parametrize(
    ("preparing", "training", "expected"),
    [(100, 50, lambda held: held + 50), (10**9, 50, lambda _: 10**9), (100, None, lambda _: None)],
)
def test_constants_count_in_the_memory_of_each_training_that_uses_them(
    tiny, monkeypatch, preparing, training, expected
):
    def measured(bytes_):
        @contextmanager
        def peak_memory(device):
            yield Peak(bytes_)

        return peak_memory

    monkeypatch.setattr(finetuning, "peak_memory", measured(preparing))
    monkeypatch.setattr(reft_method, "peak_memory", measured(training))
    model, constants = tiny("llama"), Constants()
    first, second = (
        ReFT(kind(rank=1), (1,), "l1").fit(model, ROWS, Schedule(1, 2), constants=constants)
        for kind in (LoReFT, DiReFT)
    )
    trained: Any = first.finetuned
    held = constants.of(trained.intervened, ROWS, 2).rows.plan.nbytes
    assert held > 100  # there are constants, more of them than the preparation took
    assert first.memory == second.memory == expected(held)


def test_development_rows_are_no_part_of_what_a_training_takes(tiny, monkeypatch):
    """Whether or not a training before it has prepared them: nothing is prepared while it runs,
    which would also reset the mark that is being watched."""
    opened: list[str] = []

    def watched(name):
        @contextmanager
        def peak_memory(device):
            assert "training" not in opened, f"{name} within a training"
            opened.append(name)
            yield Peak(100)
            opened.remove(name)

        return peak_memory

    monkeypatch.setattr(finetuning, "peak_memory", watched("preparation"))
    monkeypatch.setattr(reft_method, "peak_memory", watched("training"))
    model, constants, development = tiny("llama"), Constants(), ROWS[:2]
    fits = [
        ReFT(LoReFT(rank=1), (1,), "l1").fit(
            model, ROWS, Schedule(2, 2), development=development, measured_after=(1, 2),
            constants=constants,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [step for step, _, _ in fits[0].curve] == [1, 2]
    losses = [[loss for _, _, loss in fit.curve] for fit in fits]
    assert losses[0] == losses[1] and losses[0][1] == fits[0].finetuned.loss(development)
    assert fits[0].memory == fits[1].memory


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps must be above 0, got 0"),
        ({"steps": 1, "batch_size": 0}, "batch_size must be above 0"),
        ({"steps": 1, "warmup_ratio": 1.0}, "warmup_ratio must be at least 0 and below 1"),
        ({"steps": 1, "warmup_ratio": math.nan}, "warmup_ratio must be at least 0 and below 1"),
        ({"steps": 1, "learning_rate": math.inf}, "learning_rate must be finite, got inf"),
        ({"steps": 1, "weight_decay": -0.1}, "weight_decay must be at least 0 and finite"),
        ({"steps": 1, "weight_decay": math.nan}, "weight_decay must be at least 0 and finite"),
        ({"steps": 1, "seed": -1}, "seed must be at least 0 and below"),
    ],
)
def test_a_schedule_that_trains_nothing_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Schedule(**given)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    "given",
    [{"steps": 2.5}, {"steps": True}, {"steps": 1, "batch_size": True}, {"steps": 1, "seed": 0.5}],
)
def test_a_schedule_counts_in_whole_numbers(given):
    wrong, number = list(given.items())[-1]
    with pytest.raises(TypeError, match=f"{wrong} must be a whole number, got {number}"):
        Schedule(**given)


def test_a_reft_says_at_once_how_it_cannot_be_trained():
    with pytest.raises(ValueError, match="weight_decay must be at least 0 and finite, got -1"):
        ReFT(LoReFT(rank=1), weight_decay=-1.0)
