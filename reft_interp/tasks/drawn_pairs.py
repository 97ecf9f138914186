"""Drawing counterfactual pairs for a causal task until there are enough that a model gets right.

Here: a split that fills up, half of it with pairs whose label is not the base's own answer, as far
as there are others. Next door: `causal_task`, which says what is drawn from.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.evaluation import Accuracy, predict_choices
from reft_interp.evaluation.minimum_accuracy import check_accuracy

if TYPE_CHECKING:
    from reft_interp.tasks.causal_task import CausalTask, Prompt

Differ = Literal["one", "all"]

_ROUNDS = 24
"""How often pairs are drawn again for those that the model gets wrong."""
_TRIES = 2000
"""How often a setting is drawn before it is said that there is none of the kind."""


@dataclass(frozen=True)
class Drawn:
    """A counterfactual pair; with several sources, one for each variable that is swapped."""

    base: "Prompt"
    sources: "dict[str, Prompt]"
    """Of each variable, where it is taken from; one that serves several is under the first."""
    label: str

    @property
    def changes(self) -> bool:
        """Whether the label is not the base's own answer."""
        return self.label != self.base.answer

    @property
    def texts(self) -> tuple[str, ...]:
        """What tells a pair from others: its base and its sources."""
        return tuple(prompt.text for prompt in self.prompts)

    @property
    def prompts(self) -> "list[Prompt]":
        """Those that a model must get right."""
        return [self.base, *self.sources.values()]


@dataclass
class Split:
    """A split that is being filled, half of it with pairs whose label is not the base's answer."""

    task: "CausalTask"
    swapped: tuple[str, ...]
    size: int
    allowed: Mapping[str, Sequence[Any]]
    """The values of each input that are drawn from, and those that computed variables may have."""
    templates: Sequence[str]
    differ: Differ
    same_template: bool
    own_sources: bool
    """Whether each variable is taken from a source of its own."""
    rng: random.Random
    seen: set[tuple[str, ...]]
    """Pairs that were drawn, for whichever split."""
    kept: list[Drawn] = field(default_factory=list)
    all_change: bool = False
    """Whether base and source differ in nothing but what decides the answer, so that there is no
    pair whose answer stays."""

    def __post_init__(self) -> None:
        self.missing = {True: self.size // 2, False: self.size - self.size // 2}

    def draw(self) -> list[Drawn]:
        """As many new pairs of each kind as are missing."""
        drawn = [
            self._pair(changes or self.all_change)
            for changes, count in self.missing.items()
            for _ in range(count)
        ]
        if self.all_change:
            self.missing = {True: sum(self.missing.values()), False: 0}
        return drawn

    def keep(self, pair: Drawn) -> None:
        """Take a pair that `draw` gave."""
        self.missing[pair.changes] -= 1
        self.kept.append(pair)

    def rows(self) -> list[dict[str, Any]]:
        """The pairs that were kept, as counterfactual rows."""
        self.rng.shuffle(self.kept)
        return [self._row(pair) for pair in self.kept]

    def _row(self, pair: Drawn) -> dict[str, Any]:
        sources = list(pair.sources.values())
        row: dict[str, Any] = {
            # First, so that a variable named "answer" leaves the column that all rows have.
            f"base_{name}": str(value)
            for name, value in pair.base.setting.items()
        }
        if self.own_sources:
            row |= {
                "sources": {
                    name: {"prompt": one.text, "answer": one.answer, "spans": one.spans}
                    for name, one in pair.sources.items()
                }
            }
            row |= {f"source_{name}": str(one.setting[name]) for name, one in pair.sources.items()}
        else:
            row |= {f"source_{name}": str(value) for name, value in sources[0].setting.items()}
            row |= {
                "source": sources[0].text,
                "source_answer": sources[0].answer,
                "source_spans": sources[0].spans,
            }
        return row | {
            "base": pair.base.text,
            "base_answer": pair.base.answer,
            "label": pair.label,
            "choices": self.task.choices,
            "base_spans": pair.base.spans,
        }

    def _pair(self, changes: bool) -> Drawn:
        task, model = self.task, self.task.causal_model
        groups = [(name,) for name in self.swapped] if self.own_sources else [self.swapped]
        of_kind = 0
        for _ in range(_TRIES):
            base = self._setting()
            settings = [self._source(base, names) for names in groups]
            if any(setting == base for setting in settings):
                continue
            taken = {
                name: setting
                for names, setting in zip(groups, settings, strict=True)
                for name in names
            }
            swapped = model.interchange(base, taken)
            template = self.rng.choice(self.templates)
            templates = [
                template if self.same_template else self.rng.choice(self.templates)
                for _ in settings
            ]
            label = task.answer(swapped[task.output])
            # Before anything is written: most draws may be of the other kind.
            if (label != task.answer(base[task.output])) != changes:
                continue
            sources = {
                names[0]: task.write(setting, text)
                for names, setting, text in zip(groups, settings, templates, strict=True)
            }
            pair = Drawn(task.write(base, template), sources, label)
            if pair.base.text in pair.texts[1:]:
                continue
            of_kind += 1
            if pair.texts not in self.seen:
                self.seen.add(pair.texts)
                return pair
        if not of_kind and not changes and self.differ == "one":
            self.all_change = True
            return self._pair(True)
        raise ValueError(self._why_none(changes, of_kind))

    def _why_none(self, changes: bool, of_kind: int) -> str:
        taken = f"once {' and '.join(self.swapped)} is taken from the source"
        if of_kind:
            return (
                f"{self.task.name}: no new pair was found in {_TRIES} draws whose label "
                f"{'is not' if changes else 'is'} the base's own answer {taken} "
                f"({len(self.seen)} so far). Ask for fewer pairs"
            )
        if changes:
            return (
                f"{self.task.name}: {taken} the base's own answer never changes, in {_TRIES} "
                "draws. Ask for a variable whose interchange changes some answers"
            )
        return (
            f"{self.task.name}: {taken} the base's own answer always changes, in {_TRIES} draws, "
            "so that half of the pairs cannot be such whose answer stays. Ask for pairs with "
            "differ='one', which may all change, or for a variable with fewer values"
        )

    def _source(self, base: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        model, source = self.task.causal_model, self._setting()
        if self.differ == "all":
            return source
        shared = set(model.inputs) - model.ancestors(names)
        return model.run(
            {name: (base if name in shared else source)[name] for name in model.inputs}
        )

    def _setting(self) -> dict[str, Any]:
        return draw_setting(self.task, self.allowed, self.rng)


def draw_setting(
    task: "CausalTask", allowed: Mapping[str, Sequence[Any]], rng: random.Random
) -> dict[str, Any]:
    """A complete setting, balanced as the task says.

    Args:
        task: whose setting it is.
        allowed: the values of each input that are drawn from, and of computed variables those
            that they may have.
        rng: the draws.

    Raises:
        ValueError: no setting has the values that were drawn for balance.
    """
    model = task.causal_model
    wanted = {name: rng.choice(model.domains[name]) for name in task.balanced}
    computed = [name for name in allowed if name not in model.inputs]
    for _ in range(_TRIES):
        drawn = model.run({name: rng.choice(allowed[name]) for name in model.inputs})
        if all(drawn[name] == value for name, value in wanted.items()) and all(
            drawn[name] in allowed[name] for name in computed
        ):
            return drawn
    raise ValueError(f"{task.name}: no setting with {wanted} in {_TRIES} draws (balanced)")


def fill(
    splits: Sequence[Split],
    model: TransformerBridge | None,
    minimum_accuracy: float,
    batch_size: int,
) -> tuple[int, Accuracy | None]:
    """Draw pairs until the splits are full of such as the model gets right.

    Args:
        splits: of one task.
        model: is asked for its answer to every prompt; None: no model is asked.
        minimum_accuracy: share of the first draw's prompts that it must get right.
        batch_size: prompts that it reads at once.

    Returns:
        How many were drawn, and the model's accuracy on the prompts of the first draw.

    Raises:
        ValueError: there are no more pairs; the model is less accurate than that, or gets too few
            pairs right.
    """
    generated, first = 0, None
    for _ in range(_ROUNDS):
        drawn = [(split, pair) for split in splits for pair in split.draw()]
        generated += len(drawn)
        prompts = [prompt for _, pair in drawn for prompt in pair.prompts]
        right = _right(splits[0].task, model, prompts, batch_size)
        if model is not None and first is None:
            first = Accuracy(sum(right), len(right))
            check_accuracy(first, minimum_accuracy, len(splits[0].task.choices))
        said = iter(right)
        for split, pair in drawn:
            # All of them are taken from the iterator, whatever the first says.
            if all([next(said) for _ in pair.prompts]):
                split.keep(pair)
        if not any(count for split in splits for count in split.missing.values()):
            return generated, first
    missing = sum(count for split in splits for count in split.missing.values())
    raise ValueError(
        f"n must be a number of pairs that the model gets right: of {generated} drawn, "
        f"{missing} are still missing (accuracy on single prompts {first})"
    )


def _right(
    task: "CausalTask",
    model: TransformerBridge | None,
    prompts: "Sequence[Prompt]",
    batch_size: int,
) -> list[bool]:
    """Which prompts the model answers as the causal model does; all of them without a model."""
    if model is None:
        return [True] * len(prompts)
    choices = task.choices
    rows = [{"prompt": prompt.text, "choices": choices} for prompt in prompts]
    said = predict_choices(model, rows, batch_size=batch_size)
    return [choices[int(i)] == one.answer for i, one in zip(said, prompts, strict=True)]
