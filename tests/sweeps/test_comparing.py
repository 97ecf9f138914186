"""Methods on a suite: what is chosen, what is written, and what goes on where it was."""

import dataclasses
import gc
import json
import math
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import binomtest

from reft_interp.evaluation.metrics import Metric, exact_match, f1, matthews, mean_of_rows
from reft_interp.interop.peft_methods import PEFT, lora
from reft_interp.interventions import DiReFT, LoReFT
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.subspace import Subspace
from reft_interp.sweeps import Budget, compare
from reft_interp.sweeps.comparison import mean_score
from reft_interp.sweeps.named_methods import NAMES, named_method
from reft_interp.tasks.suites import Suite, paper_recipe
from reft_interp.training import finetuning
from reft_interp.training.finetuning import Finetuned, FinetuningMethod, Fit, Schedule, plain_rows
from reft_interp.training.reft_method import ReFT

pytestmark = pytest.mark.usefixtures("long_training")

WORDS = {" key": " is", " keys": " are"}


def rows(n: int, *, first: int = 0) -> Dataset:
    """The last word of the prompt says which answer is right."""
    said = ["The old", "Near the doors the", "A long", "In Japan the", "Paris, and the", "No"]
    found = []
    for i in range(first, first + n):
        word, answer = list(WORDS.items())[i % 2]
        prompt = f"{said[i // 2 % 6]}{' big' * (i // 12)}{word}"
        found.append({"prompt": prompt, "answer": answer, "gold": answer.strip()})
    return Dataset.from_list(found)


def suite(**changes) -> Suite:
    given = {
        "name": "keys",
        "train": rows(24),
        "development": rows(6, first=24),
        "tests": {"keys": rows(10, first=30)},
        "template": "{}",
        # An edit of the prompt alone does not end the answer of a model of random weights.
        "extract": lambda said: next((w for w in ("is", "are") if said.startswith(f" {w}")), None),
        "metric": exact_match(),
        "max_new_tokens": 3,
        "recipe": paper_recipe("commonsense"),
    }
    return Suite(**(given | changes))


@dataclass(frozen=True, eq=False)
class Planted(FinetuningMethod):
    """A method whose loss and answers are known, and that counts its trainings."""

    name: str = "planted"
    candidates: tuple[float, ...] = (1.0, 2.0, 3.0)
    losses: tuple[float, ...] = (0.5, 0.2, 0.9)
    right: float = 1.0

    def fit(self, model, rows, schedule, **_):
        FITTED.append((self.name, schedule.learning_rate, schedule.seed))
        if schedule.learning_rate == 3.0 and self.name == "breaks":
            raise ValueError("the loss became nan")
        loss = self.losses[self.candidates.index(schedule.learning_rate)]

        curve = [(1, 0.5, loss + 1), (2, 1.5, loss)]
        return Fit(Answering(loss, self.right, schedule.seed), 2.0, 0.0, curve)


class Answering(Finetuned):
    trained_parameters = 7

    def __init__(self, loss, right, seed):
        self._loss, self.right, self.seed = loss, right, seed

    def summed_loss(self, rows, group):
        return self._loss * len(group), len(group)

    def continued(self, rows, **options):
        raise AssertionError("all rows are asked of at once")

    def generate(self, rows, *, batch_size, **options):
        assert options["max_new_tokens"] == 3 and options["do_sample"] is False
        wrong = round(len(rows) * (1 - self.right))
        return ["what" if i < wrong else row["answer"] for i, row in enumerate(rows)]

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "x.safetensors").write_bytes(b"0123456789")


FITTED: list[tuple[str, float, int]] = []


@pytest.fixture(autouse=True)
def _count():
    FITTED.clear()


def test_each_method_is_tuned_on_development_and_reported_on_test(tiny, tmp_path):
    found: Any = compare(
        tiny("llama"), suite(), [Planted(), Planted("other", losses=(3.0, 4.0, 5.0), right=0.8)],
        budget=Budget(2, 4, trials=3, seeds=(5, 6)), folder=tmp_path, progress=False,
    )  # fmt: skip
    frame = found.frame.set_index("method")
    assert list(frame.index) == ["untouched", "planted", "other"]
    assert frame.loc["planted", "chosen"] == 2.0 and frame.loc["other", "chosen"] == 1.0
    assert frame.loc["planted", "score"] == 1.0 and frame.loc["other", "score"] == 0.8
    assert frame.loc["planted", "unparsed"] == 0.0 and frame.loc["other", "unparsed"] == 0.2
    assert frame.loc["untouched", "parameters"] == 0 and math.isnan(
        frame.loc["untouched", "chosen"]
    )
    assert list(frame["seeds"]) == [1, 2, 2] and list(frame["n"]) == [10] * 3
    assert frame.loc["other", "file_bytes"] == 10 and frame.loc["other", "seconds_per_step"] == 1.0
    # The lowest loss that all reach is 3.0: the first one was below it at its first look.
    assert found.target == 3.0
    assert frame.loc["planted", "seconds_to_target"] == 0.5
    assert frame.loc["other", "seconds_to_target"] == 1.5
    # Trials with the first seed; that of the best is reported without another training.
    assert FITTED == [
        ("planted", 1.0, 5), ("planted", 2.0, 5), ("planted", 3.0, 5), ("planted", 2.0, 6),
        ("other", 1.0, 5), ("other", 2.0, 5), ("other", 3.0, 5), ("other", 1.0, 6),
    ]  # fmt: skip


def test_what_is_on_disk_is_not_trained_again(tiny, tmp_path):
    def go(*methods):
        budget = Budget(2, 4, trials=2, seeds=(0, 1))
        return compare(
            tiny("llama"), suite(), methods, budget=budget, folder=tmp_path, progress=False
        )

    whole = go(Planted(), Planted("other"))
    count = len(FITTED)
    assert str(go(Planted(), Planted("other"))) == str(whole) and len(FITTED) == count
    # As if it had been killed before the last of them was finished.
    (tmp_path / "runs" / "02.json").unlink()
    (tmp_path / "runs" / "02-seed-1.json").unlink()
    assert str(go(Planted(), Planted("other"))) == str(whole)
    assert FITTED[count:] == [("other", 2.0, 1)]
    with pytest.raises(ValueError, match="holds another comparison: methods differ"):
        go(Planted(), Planted("another"))


def test_another_model_of_the_same_name_is_another_comparison(make_tiny, tmp_path):
    budget = Budget(2, 4, trials=1, seeds=(0,))
    options = {"budget": budget, "folder": tmp_path, "progress": False}
    compare(make_tiny("llama"), suite(), [], **options)
    compare(make_tiny("llama"), suite(), [], **options)
    with pytest.raises(ValueError, match="holds another comparison: weights differ"):
        compare(make_tiny("llama", seed=1), suite(), [], **options)


@pytest.mark.parametrize("beside", [False, True])
def test_a_reft_that_starts_elsewhere_is_another_comparison(tiny, tmp_path, beside):
    def go(seed):
        start = Subspace.random(32, 2, seed=seed)
        reft = ReFT(LoReFT(start=start), layers=(0,), on="l1", candidates=(1e-2,), name="r")
        method = PEFT(lora(2).config, "r", (1e-2,), reft=reft) if beside else reft
        return compare(
            tiny("llama"), suite(), [method], budget=Budget(1, 4, trials=1, seeds=(0,)),
            folder=tmp_path, progress=False,
        )  # fmt: skip

    whole = go(0)
    assert list(whole.frame["error"]) == [None, None] and str(go(0)) == str(whole)
    with pytest.raises(ValueError, match="holds another comparison: methods differ"):
        go(7)


def test_no_method_tries_more_values_than_another(tiny, tmp_path):
    def go(trials, *methods):
        FITTED.clear()
        compare(
            tiny("llama"), suite(), methods, budget=Budget(2, 4, trials=trials, seeds=(0,)),
            folder=tmp_path / str(len(list(tmp_path.iterdir()))), progress=False,
        )  # fmt: skip
        return [(name, rate) for name, rate, _ in FITTED]

    two = Planted("two", candidates=(1.0, 2.0))
    one = Planted("one", candidates=(2.0,), losses=(0.1,))  # which is not tuned
    with pytest.warns(UserWarning, match="2 values are tried of each .* 3 were to be: two has no"):
        tried = go(3, Planted(), two, one)
    assert tried == [
        ("planted", 1.0), ("planted", 2.0), ("two", 1.0), ("two", 2.0), ("one", 2.0)
    ]  # fmt: skip
    # All are tried where every method has as many; warnings are errors here.
    assert len(go(5, Planted(), Planted("other"), one)) == 3 + 3 + 1
    assert len(go(2, Planted(), two)) == 4


def test_a_named_reft_tries_no_more_than_lora(tiny, tmp_path):
    with pytest.warns(UserWarning, match="3 values are tried of each .* 4 were to be: LoRA has no"):
        found = compare(
            tiny("llama"), suite(), ["LoReFT", "LoRA"],
            budget=Budget(1, 4, trials=4, seeds=(0,)), folder=tmp_path, progress=False,
        )  # fmt: skip
    assert [len(one["trials"]) for one in found.runs] == [0, 3, 3]


def test_a_method_begins_without_what_is_constant_for_other_places(tiny, tmp_path, monkeypatch):
    alive: weakref.WeakSet[PreparedRows] = weakref.WeakSet()
    seen = []

    def count():
        gc.collect()
        seen.append(len(alive))

    class Watched(PreparedRows):
        def __init__(self, *given, **options):
            count()
            super().__init__(*given, **options)
            alive.add(self)

    class Planted_(Planted):
        def fit(self, *given, **options):
            count()
            return super().fit(*given, **options)

    monkeypatch.setattr(finetuning, "PreparedRows", Watched)
    at = [ReFT(LoReFT(rank=1), (0,), candidates=(1e-3, 1e-2)), ReFT(DiReFT(rank=1), (0,))]
    elsewhere = ReFT(LoReFT(rank=1), (1,), candidates=(1e-3,), name="above")
    found: Any = compare(
        tiny("llama"), suite(), [*at, elsewhere, Planted_(candidates=(2.0,), losses=(0.1,))],
        budget=Budget(1, 4, trials=2, seeds=(0,)), folder=tmp_path, progress=False,
    )  # fmt: skip
    assert found.frame["error"].isna().all()
    # Rows of train and development: for the first two together, then for the other; then none.
    assert seen == [0, 1, 0, 1, 0]


def test_an_error_ends_its_own_method_only(tiny, tmp_path):
    found: Any = compare(
        tiny("llama"), suite(), ["BitFit", Planted("breaks")],
        budget=Budget(2, 4, seeds=(0,)), folder=tmp_path, progress=False,
    )  # fmt: skip
    frame = found.frame.set_index("method")
    assert "tiny-llama (as any llama) has none" in frame.loc["BitFit", "error"]
    assert frame.loc["breaks", "score"] == 1.0  # at a rate at which it does not break
    assert "BitFit: ValueError" in str(found) and "nan" not in str(found)
    trials = json.loads((tmp_path / "runs" / "02.json").read_text())["trials"]
    assert trials[2] == {"value": 3.0, "loss": None, "error": "the loss became nan"}


@pytest.mark.parametrize("error", [IndexError("out of range"), torch.OutOfMemoryError("full")])
def test_what_failed_is_run_again_and_only_that(tiny, tmp_path, monkeypatch, error):
    def go():
        budget = Budget(2, 4, trials=2, seeds=(0, 1))
        methods = [Planted("fails"), Planted("other")]
        return compare(
            tiny("llama"), suite(), methods, budget=budget, folder=tmp_path, progress=False
        ).frame.set_index("method")

    def failing(self, folder):
        if self.seed == 1 and FITTED[-1][0] == "fails":
            raise error
        save(self, folder)

    save = Answering.save
    monkeypatch.setattr(Answering, "save", failing)
    failed: Any = go()
    assert failed.loc["fails", "error"] == f"{type(error).__name__}: {error}"
    assert failed.loc["other", "score"] == 1.0
    monkeypatch.undo()
    FITTED.clear()
    found: Any = go()
    # Trials and the first seed were whole.
    assert FITTED == [("fails", 2.0, 1)]
    assert found["error"].isna().all() and list(found["score"])[1:] == [1.0, 1.0]


def test_trials_that_failed_are_tried_again(tiny, tmp_path, monkeypatch):
    def go():
        return compare(
            tiny("llama"), suite(), [Planted()], budget=Budget(2, 4, trials=2, seeds=(0,)),
            folder=tmp_path, progress=False,
        ).frame.set_index("method")  # fmt: skip

    def nan(self, rows):
        raise ValueError("the loss is nan")

    monkeypatch.setattr(Answering, "loss", nan)
    failed: Any = go()
    assert failed.loc["planted", "error"] == "ValueError: the loss is nan"
    monkeypatch.undo()
    found: Any = go()
    assert found.loc["planted", "chosen"] == 2.0 and found.loc["planted", "score"] == 1.0


def test_runs_of_a_value_that_is_no_longer_chosen_are_run_again(tiny, tmp_path, monkeypatch):
    def go() -> Any:
        return compare(
            tiny("llama"), suite(), [Planted()], budget=Budget(2, 4, trials=2, seeds=(0, 1)),
            folder=tmp_path, progress=False,
        )  # fmt: skip

    def failing(self, model, rows, schedule, **options):
        if schedule.learning_rate == 2.0:
            raise ValueError("too little memory")
        return fit(self, model, rows, schedule, **options)

    def full(self, folder):
        if self.seed == 1:
            raise OSError("the disk is full")
        save(self, folder)

    fit, save = Planted.fit, Answering.save
    monkeypatch.setattr(Planted, "fit", failing)
    monkeypatch.setattr(Answering, "save", full)
    first = go().frame.set_index("method")
    assert first.loc["planted", "error"] == "OSError: the disk is full"
    monkeypatch.undo()
    found = go()
    assert found.frame.set_index("method").loc["planted", "chosen"] == 2.0
    runs = found.runs[1]["runs"]
    assert [(run["seed"], run["value"]) for run in runs] == [(0, 2.0), (1, 2.0)]
    assert FITTED[-2:] == [("planted", 2.0, 0), ("planted", 2.0, 1)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_ends_the_comparison(tiny, tmp_path, monkeypatch, stop):
    def fit(self, *given, **options):
        raise stop

    monkeypatch.setattr(Planted, "fit", fit)
    with pytest.raises(type(stop)):
        compare(tiny("llama"), suite(), [Planted()], folder=tmp_path, progress=False)
    assert not (tmp_path / "runs" / "01.json").exists()


def test_methods_learn_what_the_untouched_model_does_not_know(tiny, tmp_path):
    model = tiny("llama")
    found: Any = compare(
        model, suite(),
        [ReFT(LoReFT(rank=4), (0,), "last", candidates=(3e-2,)),
         ReFT(DiReFT(rank=4), (0,), "last", candidates=(3e-2,)), "linear head"],
        budget=Budget(100, 8, trials=1, seeds=(0, 1)), folder=tmp_path, progress=False,
    )  # fmt: skip
    scores = found.frame.set_index("method")["score"]
    assert scores["untouched"] <= 0.1 and scores["LoReFT"] >= 0.9 and scores["DiReFT"] >= 0.9
    assert scores["linear head"] == 1.0
    loaded = found.load("LoReFT", model, seed=1)
    assert isinstance(loaded, IntervenedModel)
    test: Any = list(suite().tests["keys"])
    (run,) = [run for run in found.runs[1]["runs"] if run["seed"] == 1]
    outputs = loaded.generate([row["prompt"] for row in test], max_new_tokens=3)
    assert outputs == run["outputs"]["keys"]
    table, picture = found.save()
    assert table.is_file() and picture.stat().st_size > 1000
    axes = found.plot("keys")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["untouched", "LoReFT", "DiReFT", "linear head"]
    with pytest.raises(ValueError, match="dataset must be one of keys, got 'locks'"):
        found.plot("locks")
    with pytest.raises(ValueError, match="method must be one of untouched, LoReFT"):
        found.load("LoRA", model)


def test_all_methods_take_the_likeliest_token_and_end_where_the_model_ends(make_tiny, tmp_path):
    model = make_tiny("llama")
    asked: Any = rows(10, first=30)
    said: list[str] = []
    ends: list[int] = []
    for row in asked:
        ids = torch.tensor([model.tokenizer(row["prompt"])["input_ids"]])
        start = ids.shape[1]
        for _ in range(8):
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
        ends.append(int(ids[0, start + 3]))  # the fourth token, say, is an end
        said.append(model.tokenizer.decode(ids[0, start:], skip_special_tokens=True))
    settings = model.original_model.generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size = 5.0, 1
    methods = [replace(lora(1), candidates=(1e-9,)), "untouched"]
    once = Budget(1, 4, trials=1, seeds=(0,))
    told = suite(max_new_tokens=8)

    def outputs(name):
        found: Any = compare(
            model, told, methods, budget=once, folder=tmp_path / name, progress=False
        )
        assert found.frame["error"].isna().all()
        return [one["runs"][0]["outputs"]["keys"] for one in found.runs]

    for of_method in outputs("greedy"):
        assert of_method == said
    settings.eos_token_id = ends
    shorter, of_untouched = outputs("ends")
    assert shorter == of_untouched
    assert shorter != said
    assert all(whole.startswith(cut) for cut, whole in zip(shorter, said, strict=True))


def test_the_interval_covers_rows_and_seeds():
    test = rows(200)
    gold = list(test["gold"])
    right = [f" {answer}" for answer in gold]
    half = [said if i % 2 else "what" for i, said in enumerate(right)]
    value, low, high = mean_score(suite(), [half], test)
    wilson = binomtest(100, 200).proportion_ci(method="wilson")
    assert value == 0.5 and (low, high) == pytest.approx((wilson.low, wilson.high))
    # Two trainings that agree are no more certain about the rows than one.
    assert mean_score(suite(), [half, half], test) == pytest.approx((value, low, high))
    assert mean_score(suite(), [right], test)[1:] == pytest.approx(
        (binomtest(200, 200).proportion_ci(method="wilson").low, 1.0)
    )
    more = [*right[:8], *half[8:]]  # 104 of 200
    apart, lower, higher = mean_score(suite(), [half, more], test)
    spread = np.std([0.5, 0.52], ddof=1) / math.sqrt(2) * 12.706  # Student's t, one degree
    assert apart == pytest.approx(0.51) and higher - lower > 2 * spread
    # Two seeds so far apart say nothing, and a share is nowhere below 0 or above 1.
    assert mean_score(suite(), [half, right], test) == (0.75, 0.0, 1.0)
    # What counts as the answer may depend on the row.
    by_row = dataclasses.replace(suite(), extract_for=lambda output, row: row["gold"])
    assert mean_score(by_row, [half], test)[0] == 1


def test_a_metric_without_right_rows_has_an_interval_over_resampled_rows():
    labels = ("is", "are")
    test = rows(200)
    rng = np.random.default_rng(0)
    said = [
        f" {answer}" if keep else f" {labels[answer == 'is']}"
        for answer, keep in zip(test["gold"], rng.random(200) < 0.8, strict=True)
    ]
    by_matthews = suite(metric=matthews(labels))
    value, low, high = mean_score(by_matthews, [said], test)
    # For balanced labels it is 2p - 1 of an accuracy p.
    p = suite().score(said, test)
    assert value == pytest.approx(2 * p - 1, abs=0.02)
    assert high - low == pytest.approx(2 * 2 * 1.96 * math.sqrt(p * (1 - p) / 200), rel=0.15)
    # No interval of a correlation ends above 1 or below -1, however far apart the trainings are.
    right = [f" {answer}" for answer in test["gold"]]
    assert mean_score(by_matthews, [said, right], test)[1:] == (-1.0, 1.0)


def test_a_mean_of_rows_scores_each_row_of_a_training_once_and_says_the_same():
    asked = []

    def shared(predicted, gold):
        asked.append(gold)
        return len(set(predicted or "") & set(gold)) / 3

    fast = mean_of_rows("letters", shared, (0.0, 1.0))
    slow = Metric("letters", fast.compute, bounds=(0.0, 1.0))
    test = rows(20)
    outputs = [[f" {said}" for said in "is are are what is".split() * 4], [" are"] * 20]
    found = mean_score(suite(metric=fast), outputs, test)
    assert len(asked) == 2 * 20
    assert found == pytest.approx(mean_score(suite(metric=slow), outputs, test))


@pytest.mark.parametrize(
    ("changes", "methods", "said"),
    [
        ({"tests": {}}, [Planted()], "keys has no test rows"),
        ({"train": None}, [Planted()], "keys has no rows to train planted on"),
        ({"development": None}, [Planted()], r"no development rows to tune planted on.*trials=1"),
        ({}, [Planted(), Planted()], "methods must have different names, 'planted' is there twice"),
        ({}, ["QLoRA"], "methods must be among LoReFT, DiReFT.*got 'QLoRA'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(tiny, changes, methods, said):
    with pytest.raises(ValueError, match=said):
        compare(tiny("llama"), suite(**changes), methods, progress=False)
    assert FITTED == []


LONG = "The old" + " big" * 130 + " key"


def with_long(split: Dataset) -> Dataset:
    return Dataset.from_list([*split.to_list(), {"prompt": LONG, "answer": " is", "gold": "is"}])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": with_long(rows(4))}, r"suite: train: row 4 has {n} tokens \(\d of them its an"),
        ({"development": with_long(rows(3))}, r"suite: development: row 3 has {n} tokens"),
        ({"tests": {"keys": with_long(rows(2))}}, r"suite: test keys: row 2 has {n} tokens, and t"),
    ],
)
def test_a_row_that_the_model_cannot_read_is_named_before_anything_runs(
    tiny, changes: dict[str, Any], said
):
    model = tiny("llama")
    tokens = len(model.tokenizer(LONG)["input_ids"])
    assert tokens > 128  # what the tiny models can read
    answer = 0 if "tests" in changes else len(model.tokenizer(" is</s>")["input_ids"]) - 1
    with pytest.raises(ValueError, match=said.format(n=tokens + answer)) as told:
        compare(model, suite(**changes), [Planted()], progress=False)
    assert FITTED == [] and "tiny-llama can read 128" in str(told.value)
    assert 'truncate_prompts(model, rows, 128, truncation_side="left")' in str(told.value)


def test_new_tokens_count_where_positions_are_learned(tiny):
    model = tiny("gpt2")
    test = rows(2)
    longest = max(len(model.tokenizer(prompt)["input_ids"]) for prompt in test["prompt"])
    most = 128 - longest + 1  # the last new token is not read
    budget = Budget(1, 2, trials=1, seeds=(0,))
    too_many = suite(tests={"keys": test}, max_new_tokens=most + 1)
    with pytest.raises(
        ValueError, match=rf"test keys: row \d has {longest} .* at most {most}, or l"
    ):
        compare(model, too_many, [], budget=budget, progress=False)
    just = suite(tests={"keys": test}, max_new_tokens=most)
    found: Any = compare(model, just, [], budget=budget, progress=False)
    assert found.frame["error"].isna().all()
    # Positions that are computed go on.
    compare(tiny("llama"), too_many, [], budget=budget, progress=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"seeds": ()}, "seeds must be one or several different numbers"),
        ({"seeds": (1, 1)}, "seeds must be one or several different numbers"),
        ({"warmup_ratio": 5.0}, r"warmup_ratio must be .* got 5\.0"),
        ({"warmup_ratio": math.nan}, "warmup_ratio must be .* got nan"),
    ],
)
def test_a_budget_that_allows_nothing_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Budget(**given)


@pytest.mark.usefixtures("no_type_checks")
def test_numbers_of_numpy_are_numbers(tiny, tmp_path):
    one: Any = np.int64(1)
    two: Any = np.int64(2)
    some: Any = np.arange(2)
    assert Budget(2, seeds=range(2)) == Budget(two, seeds=some) == Budget(2, seeds=(0, 1))
    wrong: Any
    for wrong in (True, 2.0):
        with pytest.raises(TypeError, match=f"steps must be whole numbers, got {wrong}"):
            Budget(wrong)
    reft = ReFT(LoReFT(rank=one), some, "l1", candidates=(1e-3,))
    assert reft.describe() == ReFT(LoReFT(rank=1), (0, 1), "l1", candidates=(1e-3,)).describe()
    assert ReFT(LoReFT(rank=1), one).layers == (1,)
    with pytest.raises(TypeError, match=r'layers must be "all" or whole numbers, got True'):
        ReFT(LoReFT(rank=1), (True,))
    with pytest.raises(ValueError, match=r'layers must be "all" or numbers from 0, got "?\'last'):
        wrong = "last"
        ReFT(LoReFT(rank=1), wrong)
    found: Any = compare(
        tiny("llama"), suite(), [reft], budget=Budget(one, 2, seeds=range(1)), folder=tmp_path,
        progress=False,
    )  # fmt: skip
    assert found.frame["error"].isna().all()


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("one", ["LoReFT", Planted()])
def test_a_single_method_is_told_to_be_a_list(tiny, one):
    with pytest.raises(TypeError, match=r"methods must be several, as \["):
        compare(tiny("llama"), suite(), one)


@pytest.mark.usefixtures("no_type_checks")
def test_what_is_no_suite_and_what_is_misspelt_is_told_what_was_meant(tiny):
    wrong: Any = rows(4)
    with pytest.raises(TypeError, match=r"suite must be a Suite, got Dataset: .*labelled_suite"):
        compare(tiny("llama"), wrong)
    with pytest.raises(ValueError, match=r"got 'Lora'; did you mean 'LoRA'\?"):
        compare(tiny("llama"), suite(), ["Lora"])


def test_processes_that_were_launched_together_are_refused(tiny, tmp_path, monkeypatch):
    FITTED.clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"compare runs in one process, .* 2 together .*folder="):
        compare(tiny("llama"), suite(), [Planted()], folder=tmp_path, progress=False)
    assert not FITTED and not list(tmp_path.iterdir())


def test_a_recipe_of_ones_own_is_followed_to_the_letter(tiny, tmp_path):
    model, paper = tiny("llama"), paper_recipe("glue/sst2")
    mine = replace(
        paper, positions="l1", learning_rate=1e-4, warmup_ratio=0.5, weight_decay=0.25, dropout=0.3
    )
    reft = named_method("LoReFT", mine, model)
    assert isinstance(reft, ReFT)
    assert reft.on == "l1" and reft.candidates == (1e-4, 4e-3, 1e-2, 1e-3)
    assert reft.intervention.arguments()["dropout"] == 0.3
    compare(
        model, suite(recipe=mine), [reft], budget=Budget(4, 2, trials=1, seeds=(0,)),
        folder=tmp_path, progress=False,
    )  # fmt: skip
    scheduled = Schedule(
        4, 2, learning_rate=1e-4, warmup_ratio=0.5, weight_decay=0.25, seed=0
    )  # fmt: skip
    by_hand = ReFT(LoReFT(rank=1, dropout=0.3), on="l1")
    ended = [{**row, "answer": row["answer"] + "</s>"} for row in plain_rows(rows(24))]
    expected: Any = by_hand.fit(model, ended, scheduled).finetuned
    found = IntervenedModel.load(tmp_path / "trained" / "01-seed-0", model).state_dict()
    for name, tensor in expected.intervened.state_dict().items():
        assert torch.equal(found[name], tensor), name
    # The paper's own recipe is for an encoder.
    untouched = named_method("LoReFT", paper, model)
    assert isinstance(untouched, ReFT)
    assert untouched.on == "f3+l3" and untouched.candidates == (
        *ReFT.candidates, paper.learning_rate
    )  # fmt: skip
    assert untouched.warmup_ratio is None and untouched.weight_decay is None


def test_names_are_those_of_papers(tiny):
    model, recipe = tiny("llama"), paper_recipe("instructions")
    named = [named_method(name, recipe, model) for name in NAMES]
    assert [method.name for method in named] == list(NAMES)
    reft = named_method("LoReFT", recipe, model)
    # The paper's layers 3 to 24 are not those of two; its positions are untied here.
    assert isinstance(reft, ReFT) and reft.layers == "all" and not reft.tied
    assert str(reft.on) == "f5+l5" and reft.intervention.arguments()["rank"] == 4


def test_a_perfect_score_of_few_rows_is_not_certain():
    test = rows(8).map(lambda _: {"gold": "are"})
    said = [[" are"] * 8]
    value, low, high = mean_score(suite(metric=f1(("is", "are"))), said, test)
    assert (value, high) == (1, 1)
    assert low == pytest.approx(binomtest(8, 8).proportion_ci(method="wilson").low)
    unbounded = suite(metric=Metric("count", lambda predicted, gold: 3.0))
    assert np.isnan(mean_score(unbounded, said, test)[1:]).all()
