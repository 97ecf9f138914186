"""A comparison at work: trials, the choice among them, the runs that are reported.

Every finished training is on disk at once, its outputs with it. Next door: `comparison` scores
them, and `folder` keeps processes apart.
"""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.models import fingerprint, identify
from reft_interp.runtime.context import check_fit
from reft_interp.runtime.running import is_causal
from reft_interp.sweeps.folder import Failures, claim, locked, read_json, write_json
from reft_interp.tasks.suites import Suite
from reft_interp.training.class_answers import ClassAnswers, class_answers
from reft_interp.training.finetuning import (
    Constants,
    FinetuningMethod,
    Fit,
    Schedule,
    end_of_text,
    plain_rows,
)
from reft_interp.training.hyperparameters import check_warmup_and_decay
from reft_interp.training.labelled_rows import texts_of
from reft_interp.whole_numbers import whole_number

FORMAT_VERSION = 2
"""Of 1, adapters on decoders were trained under the model's own dropout."""
_PATIENCE = 0.5
"""Seconds between looks at what other processes have finished."""
_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""The likeliest token each time. The penalties that some models' own settings have (Qwen's) would
count against answers that stand in the prompt: among choices, or in examples of a few-shot one."""


@dataclass(frozen=True)
class Budget:
    """What every method may use: the same steps, trials and seeds.

    Raises:
        ValueError: no steps, no trials, no seeds, or an empty batch; a warm-up that is no share of
            the steps, or that is all of them.
    """

    steps: int = 100
    """Optimiser steps of each training."""
    batch_size: int = 16
    """Rows a step."""
    trials: int = 3
    """Values of each method's tuned setting that are tried, with the first seed; the one with the
    lowest loss on the development rows is taken. A method that has one value is not tuned; of the
    others none tries more than the one that has the fewest."""
    seeds: Sequence[int] = (0, 1, 2)
    """Trainings that are reported."""
    warmup_ratio: float = 0.0
    """Share of the steps in which the learning rate rises, but for methods that have their own."""
    generated_at_once: int = 32
    """Prompts that are continued at once."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "trials", "generated_at_once"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        object.__setattr__(self, "seeds", tuple(_number("seeds", seed) for seed in self.seeds))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or several different numbers, got {self.seeds}")
        check_warmup_and_decay(warmup_ratio=self.warmup_ratio)


class ComparisonRun:
    """A comparison that is being run, by this process and perhaps by others.

    Args:
        model: the hooked model.
        suite: trained on `train`, tuned on `development`, tested on `tests`.
        methods: what is compared.
        budget: of each method; fewer trials where a method has no more values.
        folder: where everything is written.
        max_length: tokens after which an encoder's texts are cut.

    Raises:
        ValueError: two methods of one name; a suite without rows to train, tune or test on, or with
            a row that the model cannot read whole; on an encoder one without classes.
    """

    def __init__(
        self,
        model: TransformerBridge,
        suite: Suite,
        methods: Sequence[FinetuningMethod],
        budget: Budget,
        folder: Path,
        max_length: int | None = None,
    ):
        names = [method.name for method in methods]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"methods must have different names, {twice[0]!r} is there twice")
        budget = _as_many_trials(methods, budget)
        _check_suite(suite, methods, budget)
        self.model, self.suite, self.methods = model, suite, list(methods)
        self.budget, self.folder, self.max_length = budget, folder, max_length
        end = end_of_text(model) if is_causal(model) else ""
        self._train, self._development = (
            [{**row, "answer": row["answer"] + end} for row in (plain_rows(split) if split else [])]
            for split in (suite.train, suite.development)
        )
        self._check_rows()
        self._constants, self._places = Constants(), None
        self._failures = Failures(())
        self.description = {
            "format": FORMAT_VERSION,
            "model": asdict(identify(model)),
            "weights": fingerprint(model),
            "suite": [suite.name, suite.hash, suite.max_new_tokens],
            "budget": asdict(budget),
            "methods": [method.describe() for method in methods],
            **({} if max_length is None else {"max_length": max_length}),
        }

    def _check_rows(self) -> None:
        if not is_causal(self.model):
            self._check_classes()
            return
        if any(method.varies for method in self.methods):
            check_fit(self.model, self._train, "suite: train", answers=True)
            check_fit(self.model, self._development, "suite: development", answers=True)
        for name, split in self.suite.tests.items():
            new = self.suite.max_new_tokens
            check_fit(self.model, plain_rows(split), f"suite: test {name}", max_new_tokens=new)

    def _check_classes(self) -> None:
        """Raise unless an encoder can read all rows, and tell their answers apart."""
        named = {"train": self._train, "development": self._development}
        named |= {f"test {name}": plain_rows(split) for name, split in self.suite.tests.items()}
        answers: ClassAnswers | None = None
        for name, rows in named.items():
            if not rows:
                continue
            answers = class_answers(rows, f"suite: {name}", like=answers)
            if self.max_length is None:
                texts = texts_of(self.model, rows)
                check_fit(self.model, texts, f"suite: {name}", advice="give max_length=, to cut it")

    def run(self, bar: "tqdm[Any]") -> None:
        """Finish what nobody else is at, until all is finished; what failed before is run again."""
        claim(self.folder, self.description, "comparison")
        (self.folder / "runs").mkdir(exist_ok=True)
        self._failures = Failures(self._summary(i) for i in range(len(self.methods)))
        while left := [i for i in range(len(self.methods)) if not self._done(i)]:
            worked = False
            for i in left:
                with locked(self.folder / f"method-{i:02}.lock") as mine:
                    if not mine or self._done(i):
                        continue
                    bar.set_postfix_str(self.methods[i].name)
                    self._run_method(i)
                    self._failures.discard(self._summary(i))
                    worked = True
                bar.update(len(self.methods) - len(left) + left.index(i) + 1 - bar.n)
            if not worked:
                time.sleep(_PATIENCE)

    def finished(self) -> list[dict[str, Any]]:
        """What is on disk: a mapping a method, as `_run_method` writes it."""
        return [read_json(self._summary(i)) for i in range(len(self.methods))]

    def trained_folder(self, method: int, seed: int) -> Path:
        """Where what a method learned is."""
        return self.folder / "trained" / f"{method:02}-seed-{seed}"

    def _summary(self, i: int) -> Path:
        return self.folder / "runs" / f"{i:02}.json"

    def _done(self, i: int) -> bool:
        summary = self._summary(i)
        return summary.is_file() and summary not in self._failures

    def _run_method(self, i: int) -> None:
        """Tune, train and test one method; an error of its own is recorded, and ends only it."""
        method = self.methods[i]
        found: dict[str, Any] = {"method": method.name, "error": None, "chosen": None}
        try:
            self._let_go(method)
            tried, kept = self._tune(i)
            found["trials"] = tried
            found["chosen"] = chosen = _best(tried)
            seeds = self.budget.seeds if method.varies else self.budget.seeds[:1]
            found["runs"] = [
                self._report(i, chosen, seed, kept if seed == seeds[0] else None) for seed in seeds
            ]
        except Exception as error:
            found |= {"error": f"{type(error).__name__}: {error}", "runs": []}
        write_json(self._summary(i), found)

    def _let_go(self, method: FinetuningMethod) -> None:
        """Forget constants that a method cannot use, which leave it less memory than others had."""
        places = method.edited_places(self.model)
        if places is None or places != self._places:
            self._constants = Constants()
        self._places = places

    def _tune(self, i: int) -> tuple[list[dict[str, Any]], "_Measured | None"]:
        """The loss on development rows of each value that is tried, and the best training."""
        method = self.methods[i]
        values = method.candidates[: self.budget.trials]
        if len(values) < 2:
            return [{"value": value, "loss": None} for value in values], None
        tried: list[dict[str, Any]] = []
        best: _Measured | None = None
        for k, value in enumerate(values):
            path = self.folder / "runs" / f"{i:02}-trial-{k}.json"
            if path.is_file() and read_json(path).get("error") is None:
                tried.append(read_json(path))
                continue
            try:
                measured = self._fit(method, value, self.budget.seeds[0])
                loss = measured.fit.finetuned.loss(self._development)
            except ValueError as error:
                # A rate at which the training breaks down is a bad rate.
                tried.append({"value": value, "loss": None, "error": str(error)})
            else:
                tried.append({"value": value, "loss": loss})
                if best is None or loss < best.loss:
                    best = replace(measured, value=value, loss=loss)
            write_json(path, tried[-1])
        return tried, best

    def _report(
        self, i: int, value: float | None, seed: int, kept: "_Measured | None"
    ) -> dict[str, Any]:
        """Train with the chosen value, and write down what it cost and what it answers."""
        path = self.folder / "runs" / f"{i:02}-seed-{seed}.json"
        # A trial that failed at first may have won since: then what is there has another value.
        if path.is_file() and (there := read_json(path))["value"] == value:
            return there
        if kept is not None and kept.value == value:
            measured = kept
        else:
            measured = self._fit(self.methods[i], value, seed)
        trained = measured.fit.finetuned
        folder = self.trained_folder(i, seed)
        trained.save(folder)
        began = time.perf_counter()
        outputs = {
            name: trained.generate(
                plain_rows(split),
                batch_size=self.budget.generated_at_once,
                max_new_tokens=self.suite.max_new_tokens,
                **_GREEDY,
            )
            for name, split in self.suite.tests.items()
        }
        row = {
            "seed": seed,
            "value": value,
            "parameters": trained.trained_parameters,
            "head parameters": trained.head_parameters,
            "seconds": measured.fit.seconds,
            "preparation seconds": measured.fit.preparation_seconds,
            "test seconds": time.perf_counter() - began,
            "memory": measured.fit.memory,
            "bytes": sum(f.stat().st_size for f in folder.rglob("*.safetensors")),
            "curve": list(measured.fit.curve),
            "outputs": outputs,
        }
        write_json(path, row)
        return row

    def _fit(self, method: FinetuningMethod, value: float | None, seed: int) -> "_Measured":
        schedule = Schedule(
            self.budget.steps,
            self.budget.batch_size,
            warmup_ratio=self.budget.warmup_ratio,
            seed=seed,
            max_length=self.max_length,
        )
        if value is not None:
            schedule = replace(schedule, learning_rate=value)
        steps = self.budget.steps
        quarters = sorted({max(1, steps * k // 4) for k in (1, 2, 3, 4)})
        return _Measured(
            method.fit(
                self.model,
                self._train,
                schedule,
                development=self._development or None,
                measured_after=quarters,
                constants=self._constants,
            )
        )


@dataclass(frozen=True)
class _Measured:
    """A training, and how well it did on the development rows."""

    fit: Fit
    value: float | None = None
    loss: float = math.inf


def _number(name: str, given: SupportsIndex) -> int:
    return whole_number(given, f"{name} must be whole numbers, got {given!r}")


def _best(tried: Sequence[Mapping[str, Any]]) -> float | None:
    if not tried:
        return None
    if len(tried) == 1:
        return tried[0]["value"]
    finite = [one for one in tried if one["loss"] is not None and math.isfinite(one["loss"])]
    if not finite:
        raise ValueError(tried[0].get("error") or "no trial had a finite loss")
    return min(finite, key=lambda one: one["loss"])["value"]


def _as_many_trials(methods: Sequence[FinetuningMethod], budget: Budget) -> Budget:
    """The budget with as many trials as every method that is tuned has values for."""
    values = {m.name: len(m.candidates[: budget.trials]) for m in methods if len(m.candidates) > 1}
    fewest, most = min(values.values(), default=0), max(values.values(), default=0)
    if fewest == most:
        return budget
    few = [name for name, count in values.items() if count == fewest]
    warnings.warn(
        f"{fewest} values are tried of each method, where {budget.trials} were to be: {few[0]} has "
        "no more, and no method may try more than another (candidates= gives it more)",
        stacklevel=4,
    )
    return replace(budget, trials=fewest)


def _check_suite(suite: Suite, methods: Sequence[FinetuningMethod], budget: Budget) -> None:
    if not suite.tests:
        raise ValueError(f"suite: {suite.name} has no test rows")
    trained = [method for method in methods if method.varies]
    if trained and suite.train is None:
        raise ValueError(f"suite: {suite.name} has no rows to train {trained[0].name} on")
    tuned = [method for method in trained if len(method.candidates[: budget.trials]) > 1]
    if tuned and suite.development is None:
        raise ValueError(
            f"suite: {suite.name} has no development rows to tune {tuned[0].name} on: hold some "
            "out (n_development=), or give Budget(trials=1)"
        )
