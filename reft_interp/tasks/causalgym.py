"""CausalGym: minimal pairs from the templates of its tasks, with the regions that they align.

Arora, Jurafsky and Potts 2024, "CausalGym: Benchmarking causal interpretability methods on
linguistic tasks" (arXiv:2402.12560). Here: its template files as counterfactual pairs. Its score,
the log odds ratio, is `causal.log_odds_ratios`.
"""

import json
import os
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset

from reft_interp.causal import Counterfactuals

CONTROL_ANSWERS = (" dog", " give")
"""What the two types are answered with in the paper's control task: words that neither implies."""

# A region is a variable with the blank before it, or the text between two variables.
_REGIONS = re.compile(r"(?<=\})|(?= \{)|(?<! )(?=\{)")
_FORMAT = (
    ("templates", list, "a list of texts"),
    ("label", str | list, "a variable or a list of some"),
    ("labels", dict, "answers by type"),
    ("variables", dict, "values by variable"),
)
_TRIES = 200
"""Draws for one pair, before the templates are taken to be used up."""


@dataclass(frozen=True)
class CausalGymTask:
    """Sentences that are alike but for one feature, and what each should go on with.

    Args:
        name: of the task, as in "agr_gender".
        template: of the sentence, with {variables}.
        feature: the variables that differ between base and source.
        answers: type → answers, with their leading space.
        values: variable → values, of a feature type → values.

    Raises:
        ValueError: the template names no variable of the feature, or one without values; fewer
            than two types, or a feature without values for one of them.
    """

    name: str
    template: str
    feature: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        named = [variable for _, _, variable in self._pieces if variable is not None]
        there = ", ".join(named) or "none"
        if not set(named) & set(self.feature):
            raise ValueError(
                f"{self.name}: feature must name variables of the template ({there}), got "
                f"{', '.join(self.feature) or 'none'}"
            )
        if lacking := [variable for variable in named if not self.values.get(variable)]:
            raise ValueError(f"{self.name}: values has none for {{{lacking[0]}}} of the template")
        if len(self.answers) < 2:
            raise ValueError(
                f"{self.name}: answers must be of two types or more, got {list(self.answers)}"
            )
        for variable in set(named) & set(self.feature):
            of = self.values[variable]
            if not isinstance(of, Mapping) or any(not of.get(kind) for kind in self.answers):
                raise ValueError(
                    f"{self.name}: values of the feature {variable!r} must be by type "
                    f"({', '.join(self.answers)}), got {of!r}"
                )

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """Where an interchange can be: from the first that differs on, those that always hold a
        token. They are the spans that the rows name."""
        pieces = self._pieces
        first = next(i for i, (_, _, variable) in enumerate(pieces) if variable in self.feature)
        return tuple(
            name for name, text, variable in pieces[first:] if not self._empty(text, variable)
        )

    def counterfactuals(
        self, n_train: int = 400, n_test: int = 100, seed: int = 0, *, control: bool = False
    ) -> Counterfactuals:
        """Pairs that differ in the feature alone; the label is what the source should go on with.

        Each pair is there in both directions, so two rows are one pair of sentences: intervals over
        rows, which take rows to be independent, are too narrow, by up to √2. No base of test is
        one of train: where the draw of train leaves too few others, as of "cleft", a fifth of the
        values of the largest variable that is not the feature are kept for test.

        Args:
            n_train: rows to train on; an even number.
            n_test: rows to test on; an even number.
            seed: of the draw.
            control: labels are those of the paper's control task (`CONTROL_ANSWERS`), which the
                sentences say nothing about: what a method reaches there, it brought along.

        Returns:
            Rows with a span for each region, the columns `base_type` and `source_type`, and four
            choices: the two answers and those of the control task.

        Raises:
            ValueError: a size is odd or below 2, or more than the template gives.
        """
        for name, n in (("n_train", n_train), ("n_test", n_test)):
            if n < 2 or n % 2:
                raise ValueError(f"{name} must be an even number, at least 2, got {n}")
        rng = random.Random(f"causalgym {self.name} {seed}")
        held_out = "the template is the same"
        try:
            train = self._draw(rng, n_train, control, self.values)
            test = self._draw(rng, n_test, control, self.values, {row["base"] for row in train})
        except _UsedUp as error:
            if (largest := self._largest) is None:
                raise
            values = sorted(set(self.values[largest]))
            kept = set(rng.sample(values, len(values) // 5))
            of_train, of_test = (
                {**self.values, largest: [v for v in values if (v in kept) == for_test]}
                for for_test in (False, True)
            )
            if not kept:
                raise error
            train = self._draw(rng, n_train, control, of_train)
            test = self._draw(rng, n_test, control, of_test)
            held_out += f", {len(kept)} of the {len(values)} values of {largest} are in test alone"
        return Counterfactuals(
            train=Dataset.from_list(train),
            test=Dataset.from_list(test),
            variable="type",
            seed=seed,
            generated=len(train) + len(test),
            kept=len(train) + len(test),
            held_out=f"no base of test is in train; {held_out}",
        )

    def _draw(
        self,
        rng: random.Random,
        n: int,
        control: bool,
        values: Mapping[str, Any],
        avoid: Collection[str] = (),
    ) -> list[dict[str, Any]]:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        while len(rows) < n:
            for _ in range(_TRIES):
                one, other = self._pair(rng, values)
                texts = one["text"], other["text"]
                if not any(text in avoid for text in texts) and texts not in rows:
                    rows[texts] = _row(one, other, self, control)
                    rows[texts[::-1]] = _row(other, one, self, control)
                    break
            else:
                raise _UsedUp(f"{self.name} has no {n} different pairs: {len(rows)} were found")
        return list(rows.values())

    def _pair(
        self, rng: random.Random, of: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        types = rng.sample(list(self.answers), 2)
        chosen: dict[str, int] = {}
        sides: list[dict[str, Any]] = [
            {"type": kind, "answer": rng.choice(self.answers[kind]), "text": "", "spans": {}}
            for kind in types
        ]
        regions = self.regions
        for name, text, variable in self._pieces:
            if variable is None:
                values = ["", ""]
            elif variable in self.feature:
                values = [rng.choice(of[variable][kind]) for kind in types]
            else:
                # `vp.verb` and `vp.cont` go together: they are drawn as one.
                head = variable.split(".")[0] if "." in variable else None
                at = chosen.get(head or "", rng.randrange(len(of[variable])))
                if head is not None:
                    chosen[head] = at
                values = [of[variable][at]] * 2
            for side, value in zip(sides, values, strict=True):
                piece = text.replace(f"{{{variable}}}", value)
                start = len(side["text"])
                side["text"] += piece
                if name in regions:
                    side["spans"][name] = [start, start + len(piece)]
        return sides[0], sides[1]

    @cached_property
    def _largest(self) -> str | None:
        """The variable with most values, of those that are no feature and drawn by themselves."""
        found = [
            variable
            for _, _, variable in self._pieces
            if variable is not None and variable not in self.feature and "." not in variable
        ]
        return max(found, key=lambda one: len(set(self.values[one])), default=None)

    @cached_property
    def _pieces(self) -> list[tuple[str, str, str | None]]:
        """Of each region its name, its text and its variable, if it has one."""
        found: list[tuple[str, str, str | None]] = []
        for text in filter(None, _REGIONS.split(self.template)):
            variables = re.findall(r"\{(.+?)\}", text)
            name = variables[0] if variables else text.strip().replace(" ", "_")
            taken = sum(name == other.split("#")[0] for other, _, _ in found)
            variable = variables[0] if variables else None
            found.append((f"{name}#{taken + 1}" if taken else name, text, variable))
        return found

    def _empty(self, text: str, variable: str | None) -> bool:
        if variable is None:
            return not text.strip()
        values = self.values[variable]
        every = (
            values if isinstance(values, list) else [v for some in values.values() for v in some]
        )
        return any(not text.replace(f"{{{variable}}}", value).strip() for value in every)


class _UsedUp(ValueError):
    """A template gives no more different pairs."""


def causalgym(file: str | os.PathLike[str]) -> dict[str, CausalGymTask]:
    """The tasks of one of CausalGym's template files.

    Args:
        file: as `templates/syntaxgym.json` in its repository.

    Returns:
        Task → the task with the first of its templates.

    Raises:
        ValueError: no such file, or one of another format.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"file must be a template file of CausalGym, got {str(path)!r}")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} must hold tasks by name, got a {type(held).__name__}")
    tasks = {}
    for name, data in held.items():
        if not isinstance(data, dict):
            raise ValueError(f"{path}: {name} must be a task, got {data!r}")
        if missing := {"templates", "label", "labels", "variables"} - set(data):
            raise ValueError(f"{path}: {name} is without {', '.join(sorted(missing))}")
        for key, kind, what in _FORMAT:
            if not isinstance(data[key], kind) or not data[key]:
                raise ValueError(f"{path}: {key} of {name} must be {what}, got {data[key]!r}")
        space = " " if data.get("result_prepend_space") else ""
        label = data["label"]
        tasks[name] = CausalGymTask(
            name,
            data["templates"][0],
            (label,) if isinstance(label, str) else tuple(label),
            {kind: tuple(space + word for word in some) for kind, some in data["labels"].items()},
            data["variables"],
        )
    return tasks


def _row(
    base: dict[str, Any], source: dict[str, Any], task: CausalGymTask, control: bool
) -> dict[str, Any]:
    kinds: Sequence[str] = list(task.answers)
    controls = [CONTROL_ANSWERS[int(side["type"] != kinds[0])] for side in (base, source)]
    answers = [base["answer"], source["answer"]]
    said = controls if control else answers
    return {
        "base": base["text"],
        "source": source["text"],
        "base_answer": said[0],
        "source_answer": said[1],
        "label": said[1],
        "choices": [*answers, *controls],
        "base_spans": base["spans"],
        "source_spans": source["spans"],
        "base_type": base["type"],
        "source_type": source["type"],
    }
