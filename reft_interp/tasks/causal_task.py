"""Tasks that a causal model defines: its settings written as prompts, and pairs of them.

Here: text for any `causal.CausalModel`, and counterfactual pairs with their labels, balanced and
with values and templates held out. Next door: one file a task.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, Literal, get_args

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.model import CausalModel, Setting
from reft_interp.evaluation import Accuracy, predict_choices

Words = Mapping[Any, str] | Callable[[Any], str]
Differ = Literal["one", "all"]
Value = tuple[Any, ...]

_ROUNDS = 24
"""How often pairs are drawn again for those that the model gets wrong."""
_TRIES = 2000
"""How often a setting is drawn before it is said that there is none of the kind."""


@dataclass(frozen=True)
class Prompt:
    """A setting as text."""

    text: str
    spans: dict[str, list[int]]
    """Of each variable that the template names, where it stands: [start, end)."""
    answer: str
    """What the causal model says comes next, with its leading space."""
    setting: dict[str, Any] = field(repr=False)
    """The value of every variable."""


@dataclass(frozen=True)
class CausalTask:
    """A causal model with its settings written as prompts.

        CausalTask(
            "sums",
            CausalModel(
                {"x": range(5), "y": range(5), "sum": range(9)}, {"sum": lambda x, y: x + y}
            ),
            output="sum",
            templates=["{x} plus {y} is", "The sum of {x} and {y} is"],
        )

    Args:
        name: what it is called.
        causal_model: what is believed of how the answer comes about.
        output: the variable that the answer tells.
        templates: texts with variables in braces; each is then a span that a position selector
            can name, as `on="x"`. A third of them, where there are three or more, are held out.
        words: for variables whose values are not written as `str` would, the text of each value.
            Answers get a leading space where they have none.
        held_out: inputs of which a third of the values are kept for test.
        balanced: variables whose values are drawn equally often, together; otherwise inputs are
            drawn uniformly, and what is computed from them is as rare as it comes.
        description: what is asked, in words.

    Raises:
        ValueError: no templates, a template that names no variable of the model, or one that ends
            in a space; an output that is no computed variable; two values of it with the same text;
            a held-out name that is no input or has fewer than three values.
    """

    name: str
    causal_model: CausalModel
    output: str
    templates: Sequence[str]
    words: Mapping[str, Words] = field(default_factory=dict, repr=False)
    held_out: Sequence[str] = ()
    balanced: Sequence[str] = ()
    description: str = ""

    def __post_init__(self) -> None:
        model = self.causal_model
        if self.output not in model.mechanisms:
            raise ValueError(
                f"output must be a computed variable ({', '.join(model.mechanisms)}), "
                f"got {self.output!r}"
            )
        if not self.templates:
            raise ValueError("templates must hold at least one text, got none")
        for template in self.templates:
            named = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
            unknown = [name for name in named if name not in model.domains]
            if unknown or not named:
                raise ValueError(
                    f"templates: {template!r} must name variables ({', '.join(model.domains)}), "
                    f"it names {unknown or 'none'}"
                )
            if template[-1].isspace():
                raise ValueError(
                    f"templates: {template!r} ends in a space; answers bring their own"
                )
        twice = [text for text, n in Counter(self.choices).items() if n > 1]
        if twice:
            raise ValueError(f"words: two values of {self.output!r} are both written {twice[0]!r}")
        unknown = [name for name in self.balanced if name not in model.domains]
        if unknown:
            raise ValueError(
                f"balanced must name variables ({', '.join(model.domains)}), got {unknown}"
            )
        for name in self.held_out:
            if name not in model.inputs or len(model.domains[name]) < 3:
                raise ValueError(
                    f"held_out must name inputs of three values or more, got {name!r}; "
                    f"inputs are {', '.join(model.inputs)}"
                )

    @property
    def choices(self) -> list[str]:
        """The text of every answer."""
        return [self._answer(value) for value in self.causal_model.domains[self.output]]

    def write(self, setting: Setting, template: str | None = None) -> Prompt:
        """A setting as a prompt.

        Args:
            setting: a value for each input, or a complete setting, which is taken as it is.
            template: one of the templates; the first by default.

        Raises:
            ValueError: as `CausalModel.run`.
        """
        model = self.causal_model
        complete = set(model.domains) <= set(setting)
        setting = dict(setting) if complete else model.run(setting)
        text, spans = "", {}
        for literal, name, _, _ in Formatter().parse(template or self.templates[0]):
            text += literal
            if name is not None:
                written = self._word(name, setting[name])
                spans[name] = [len(text), len(text) + len(written)]
                text += written
        return Prompt(text, spans, self._answer(setting[self.output]), setting)

    def counterfactuals(
        self,
        model: TransformerBridge | None,
        variable: str | Sequence[str],
        n: int = 600,
        seed: int = 0,
        *,
        differ: Differ = "all",
        same_template: bool = True,
        minimum_accuracy: float = 0.7,
        batch_size: int = 64,
    ) -> Counterfactuals:
        """Pairs of prompts, and what the base is answered with the source's value of a variable.

        In half of the pairs of each split the label is not the base's own answer, so that
        never changing an answer scores a half.

        Args:
            model: is asked for its answer to every base and source; pairs of which it gets one
                wrong are dropped and others drawn. None: no model is asked.
            variable: what is taken from the source; several are taken together.
            n: pairs of train and test together, two thirds of them in train; even.
            seed: of the split and of the draw.
            differ: "all": base and source are drawn independently. "one": they have all
                inputs in common on which the variable does not depend. A subspace that passes "one"
                alone may carry everything that differs, so test on "all".
            same_template: base and source have the same template.
            minimum_accuracy: share of prompts that the model must get right.
            batch_size: prompts that the model reads at once.

        Returns:
            The pairs, with `base_<variable>` and `source_<variable>` columns (as text) besides
            those that every counterfactual row has.

        Raises:
            ValueError: an unknown variable; one that never varies, or whose interchange never
                changes the answer; n odd or below 6; a model that is less accurate than
                `minimum_accuracy`, or gets too few pairs right.
        """
        swapped = (variable,) if isinstance(variable, str) else tuple(variable)
        self._check_swap(swapped)
        if n < 6 or n % 2:
            raise ValueError(f"n must be an even number, at least 6, got {n}")
        if differ not in get_args(Differ):
            raise ValueError(f"differ must be one of {get_args(Differ)}, got {differ!r}")
        rng = random.Random(f"{self.name} {seed}")
        test_size = 2 * round(n / 6)
        seen: set[tuple[str, str]] = set()
        parts = [
            _Part(self, swapped, size, allowed, templates, differ, same_template, rng, seen)
            for size, (allowed, templates) in zip(
                (n - test_size, test_size), self._split(rng), strict=True
            )
        ]
        generated, first = _fill(parts, model, minimum_accuracy, batch_size)
        train, test = (Dataset.from_list(part.rows()) for part in parts)
        held = [*self.held_out, *(["template"] if len(self.templates) >= 3 else [])]
        return Counterfactuals(
            train=train,
            test=test,
            variable=" and ".join(swapped),
            seed=seed,
            generated=generated,
            kept=n,
            model_accuracy=None if first is None else first.value,
            model=None if model is None else getattr(model.cfg, "model_name", None),
            held_out=f"test has other values of {', '.join(held)} than train" if held else "",
        )

    def _word(self, name: str, value: Any) -> str:
        words = self.words.get(name, str)
        return words(value) if callable(words) else words[value]

    def _answer(self, value: Any) -> str:
        text = self._word(self.output, value)
        return text if text[:1].isspace() else f" {text}"

    def _check_swap(self, swapped: Sequence[str]) -> None:
        domains = self.causal_model.domains
        for name in swapped:
            if name not in domains:
                raise ValueError(f"variable must be one of {', '.join(domains)}, got {name!r}")
            if len(domains[name]) < 2:
                raise ValueError(f"variable: {name!r} never varies, its domain is {domains[name]}")
        if not swapped:
            raise ValueError("variable must name at least one, got none")

    def _split(
        self, rng: random.Random
    ) -> tuple[tuple[dict[str, list[Any]], list[str]], tuple[dict[str, list[Any]], list[str]]]:
        """What train draws from, and what test does: values of each input, and templates."""
        train: dict[str, list[Any]] = {}
        test: dict[str, list[Any]] = {}
        for name in self.causal_model.inputs:
            values = list(self.causal_model.domains[name])
            if name in self.held_out:
                train[name], test[name] = self._held_out_values(name, values, rng)
            else:
                train[name] = test[name] = values
        templates = list(self.templates)
        if len(templates) < 3:
            return (train, templates), (test, templates)
        rng.shuffle(templates)
        kept = len(templates) - round(len(templates) / 3)
        return (train, templates[:kept]), (test, templates[kept:])

    def _held_out_values(
        self, name: str, values: list[Any], rng: random.Random
    ) -> tuple[list[Any], list[Any]]:
        """Two thirds and one third of the values, so that both have every value of what is
        computed from them alone, as far as there are enough."""
        model = self.causal_model
        alone = [child for child, parents in model.parents.items() if parents == (name,)]
        groups: dict[Value, list[Any]] = {}
        for value in values:
            key = tuple(model.mechanisms[child](**{name: value}) for child in alone)
            groups.setdefault(key, []).append(value)
        train, test = [], []
        for group in groups.values():
            rng.shuffle(group)
            kept = len(group) - round(len(group) / 3)
            train += group[:kept]
            test += group[kept:]
        return train, test


@dataclass
class _Part:
    """A split that is being filled, half of it with pairs whose label is not the base's answer."""

    task: CausalTask
    swapped: tuple[str, ...]
    size: int
    allowed: dict[str, list[Any]]
    templates: list[str]
    differ: Differ
    same_template: bool
    rng: random.Random
    seen: set[tuple[str, str]]
    """Pairs that were drawn, for whichever split."""
    kept: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.missing = {True: self.size // 2, False: self.size - self.size // 2}

    def draw(self) -> list[tuple[bool, Prompt, Prompt, str]]:
        """As many new pairs of each kind as are missing: whether the label changes, base, source,
        label."""
        return [
            self._pair(changes) for changes, count in self.missing.items() for _ in range(count)
        ]

    def keep(self, changes: bool, base: Prompt, source: Prompt, label: str) -> None:
        self.missing[changes] -= 1
        self.kept.append(
            {
                # First, so that a variable named "answer" leaves the column that all rows have.
                **{f"base_{name}": str(value) for name, value in base.setting.items()},
                **{f"source_{name}": str(value) for name, value in source.setting.items()},
                "base": base.text,
                "source": source.text,
                "base_answer": base.answer,
                "source_answer": source.answer,
                "label": label,
                "choices": self.task.choices,
                "base_spans": base.spans,
                "source_spans": source.spans,
            }
        )

    def rows(self) -> list[dict[str, Any]]:
        self.rng.shuffle(self.kept)
        return self.kept

    def _pair(self, changes: bool) -> tuple[bool, Prompt, Prompt, str]:
        task, model = self.task, self.task.causal_model
        for _ in range(_TRIES):
            base, source = self._setting(), self._setting()
            if self.differ == "one":
                shared = set(model.inputs) - _ancestors(model, self.swapped)
                source = model.run(
                    {name: (base if name in shared else source)[name] for name in model.inputs}
                )
            if base == source:
                continue
            swapped = model.interchange(base, dict.fromkeys(self.swapped, source))
            label = task._answer(swapped[task.output])
            template = self.rng.choice(self.templates)
            other = template if self.same_template else self.rng.choice(self.templates)
            pair = task.write(base, template), task.write(source, other)
            texts = (pair[0].text, pair[1].text)
            if (label != pair[0].answer) == changes and texts not in self.seen:
                self.seen.add(texts)
                return changes, *pair, label
        raise ValueError(
            f"{task.name}: no new pair was found in {_TRIES} draws whose label "
            f"{'is not' if changes else 'is'} the base's own answer once "
            f"{' and '.join(self.swapped)} is taken from the source ({len(self.seen)} so far). Ask "
            "for fewer pairs, or for a variable whose interchange changes some answers"
        )

    def _setting(self) -> dict[str, Any]:
        model = self.task.causal_model
        wanted = {name: self.rng.choice(model.domains[name]) for name in self.task.balanced}
        for _ in range(_TRIES):
            drawn = model.run(
                {name: self.rng.choice(values) for name, values in self.allowed.items()}
            )
            if all(drawn[name] == value for name, value in wanted.items()):
                return drawn
        raise ValueError(f"{self.task.name}: no setting with {wanted} in {_TRIES} draws (balanced)")


def _ancestors(model: CausalModel, names: Sequence[str]) -> set[str]:
    """The variables on which these depend, themselves among them."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += model.parents[name]
    return found


def _fill(
    parts: Sequence[_Part],
    model: TransformerBridge | None,
    minimum_accuracy: float,
    batch_size: int,
) -> tuple[int, Accuracy | None]:
    """Draw pairs until the splits are full of such as the model gets right.

    Returns:
        How many were drawn, and the model's accuracy on the prompts of the first draw.
    """
    generated, first = 0, None
    for _ in range(_ROUNDS):
        drawn = [(part, *pair) for part in parts for pair in part.draw()]
        generated += len(drawn)
        prompts = [prompt for _, _, base, source, _ in drawn for prompt in (base, source)]
        if model is None:
            right = [True] * len(prompts)
        else:
            choices = drawn[0][0].task.choices
            rows = [{"prompt": prompt.text, "choices": choices} for prompt in prompts]
            said = predict_choices(model, rows, batch_size=batch_size)
            right = [
                choices[int(i)] == prompt.answer for i, prompt in zip(said, prompts, strict=True)
            ]
            if first is None:
                first = Accuracy(sum(right), len(right))
                if first.value < minimum_accuracy:
                    raise ValueError(
                        f"model must get a share of {minimum_accuracy} of the prompts right "
                        f"(minimum_accuracy), got {first} among {len(choices)} answers. What a "
                        "model does not do, no intervention can find in it"
                    )
        for i, (part, changes, base, source, label) in enumerate(drawn):
            if right[2 * i] and right[2 * i + 1]:
                part.keep(changes, base, source, label)
        if not any(count for part in parts for count in part.missing.values()):
            return generated, first
    missing = sum(count for part in parts for count in part.missing.values())
    raise ValueError(
        f"n must be a number of pairs that the model gets right: of {generated} drawn, "
        f"{missing} are still missing (accuracy on single prompts {first})"
    )
