"""Tasks that a causal model defines: its settings written as prompts, and pairs of them.

Here: text for any `causal.CausalModel`, and what pairs are drawn from, with values and templates
held out. Next door: `drawn_pairs` draws them; one file a task.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, get_args

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.model import CausalModel, Setting
from reft_interp.evaluation.minimum_accuracy import check_share
from reft_interp.tasks.drawn_pairs import Differ, Split, draw_setting, fill
from reft_interp.tasks.held_out_values import (
    HeldOut,
    check_held_out,
    grouped,
    split_templates,
    split_values,
)
from reft_interp.tasks.split_sizes import split_sizes
from reft_interp.tasks.templates import check_answered, named_variables

Words = Mapping[Any, str] | Callable[[Any], str]


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
            can name, as `on="x"` (so no variable there is called "last" or "f3"). Each names
            what the answer follows from, a variable once. A third of them, where there are three
            or more, are held out.
        words: for variables whose values are not written as `str` would, the text of each value.
            Answers get a leading space where they have none.
        held_out: inputs of which a third of the values are kept for test. Of several that take
            the same values (the names of two people), given as a tuple, no value is in train as
            one of them and in test as another; there computed variables may stand, too.
        balanced: variables whose values are drawn equally often, together; otherwise inputs are
            drawn uniformly, and what is computed from them is as rare as it comes.
        description: what is asked, in words.

    Raises:
        TypeError: templates that are no list of texts.
        ValueError: no templates, a template that is there twice, that names no variable of the
            model or one twice, that ends in a space, names a variable that position selectors take
            for other tokens, or whose text leaves open what the answer is; an output that is no
            computed variable; two values of it with the same text; a held-out name that is no
            input, has fewer than three values or is named twice, or a tuple of such as take
            different ones.
    """

    name: str
    causal_model: CausalModel
    output: str
    templates: Sequence[str]
    words: Mapping[str, Words] = field(default_factory=dict, repr=False)
    held_out: HeldOut = ()
    balanced: Sequence[str] = ()
    description: str = ""

    def __post_init__(self) -> None:
        model = self.causal_model
        if self.output not in model.mechanisms:
            raise ValueError(
                f"output must be a computed variable ({', '.join(model.mechanisms)}), "
                f"got {self.output!r}"
            )
        if isinstance(self.templates, str) or not isinstance(self.templates, Sequence):
            raise TypeError(f"templates must be a list of texts, got {self.templates!r}")
        if not self.templates:
            raise ValueError("templates must hold at least one text, got none")
        if again := [text for text, n in Counter(self.templates).items() if n > 1]:
            raise ValueError(
                f"templates must differ, or one may be in train and in test, got {again[0]!r} twice"
            )
        # Those that name the same variables tell the same.
        told = {frozenset(named_variables(one, model)): one for one in self.templates}
        for name, words in self.words.items():
            if name not in model.domains:
                raise ValueError(
                    f"words must name variables ({', '.join(model.domains)}), got {name!r}"
                )
            lacking = [] if callable(words) else [v for v in model.domains[name] if v not in words]
            if lacking:
                raise ValueError(f"words: {name!r} has none for {lacking[0]!r}")
        twice = [text for text, n in Counter(self.choices).items() if n > 1]
        if twice:
            raise ValueError(f"words: two values of {self.output!r} are both written {twice[0]!r}")
        unknown = [name for name in self.balanced if name not in model.domains]
        if unknown:
            raise ValueError(
                f"balanced must name variables ({', '.join(model.domains)}), got {unknown}"
            )
        check_held_out(model, self.held_out)
        for named, template in told.items():
            check_answered(template, named, model, self.output, self._word)

    @property
    def choices(self) -> list[str]:
        """The text of every answer."""
        return [self.answer(value) for value in self.causal_model.domains[self.output]]

    def answer(self, value: Any) -> str:
        """The text of a value of the output, with its leading space."""
        text = self._word(self.output, value)
        return text if text[:1].isspace() else f" {text}"

    def write(self, setting: Setting, template: str | None = None) -> Prompt:
        """A setting as a prompt.

        Args:
            setting: a value for each input, or a complete setting, which is taken as it is.
            template: one of the templates, or another that could be; the first by default.

        Raises:
            ValueError: a template that could not be; as `CausalModel.run`.
        """
        model = self.causal_model
        if template is not None and template not in self.templates:
            check_answered(
                template, named_variables(template, model), model, self.output, self._word
            )
        complete = set(model.domains) <= set(setting)
        setting = dict(setting) if complete else model.run(setting)
        text, spans = "", {}
        for literal, name, _, _ in Formatter().parse(template or self.templates[0]):
            text += literal
            if name is not None:
                written = self._word(name, setting[name])
                spans[name] = [len(text), len(text) + len(written)]
                text += written
        return Prompt(text, spans, self.answer(setting[self.output]), setting)

    def draw(self, rng: random.Random) -> Prompt:
        """A prompt of any template and any values, balanced as the task says.

        Raises:
            ValueError: no setting has the values that were drawn for balance.
        """
        setting = draw_setting(
            self, {n: self.causal_model.domains[n] for n in self.causal_model.inputs}, rng
        )
        return self.write(setting, rng.choice(self.templates))

    def counterfactuals(
        self,
        model: TransformerBridge | None,
        variable: str | Sequence[str],
        n: int = 600,
        seed: int = 0,
        *,
        differ: Differ = "all",
        own_sources: bool = False,
        same_template: bool = True,
        minimum_accuracy: float = 0.7,
        batch_size: int = 64,
    ) -> Counterfactuals:
        """Pairs of prompts, and what the base is answered with the source's value of a variable.

        In half of the pairs of each split the label is not the base's own answer, so that
        never changing an answer scores a half. With `differ="one"` there may be no others, as for
        an input that decides the answer: then it is in all of them, as the pairs say in print.

        Args:
            model: is asked for its answer to every base and source; pairs of which it gets one
                wrong are dropped and others drawn. None: no model is asked.
            variable: what is taken from the source; several are taken together, or from a source
                each.
            n: pairs of train and test together, two thirds of them in train; even.
            seed: of the split and of the draw.
            differ: "all": base and source are drawn independently. "one": they have all
                inputs in common on which the variable does not depend. A subspace that passes "one"
                alone may carry everything that differs, so test on "all".
            own_sources: each of several variables is taken from a source of its own; see
                `Counterfactuals`.
            same_template: base and source have the same template.
            minimum_accuracy: share of prompts that the model must get right.
            batch_size: prompts that the model reads at once.

        Returns:
            The pairs, with `base_<variable>` and `source_<variable>` columns (as text) besides
            those that every counterfactual row has.

        Raises:
            ValueError: an unknown variable; one that is named twice, that never varies, or whose
                interchange never changes the answer; own sources for one variable; n odd or below
                6; `minimum_accuracy` no share; a model that is less accurate, or gets too few pairs
                right.
        """
        check_share("minimum_accuracy", minimum_accuracy)
        swapped = (variable,) if isinstance(variable, str) else tuple(variable)
        self._check_swap(swapped)
        if own_sources and len(swapped) < 2:
            raise ValueError(
                f"own_sources is for several variables, each with its source, got {variable!r}"
            )
        sizes = split_sizes(n)
        if differ not in get_args(Differ):
            raise ValueError(f"differ must be one of {get_args(Differ)}, got {differ!r}")
        rng = random.Random(f"{self.name} {seed}")
        seen: set[tuple[str, ...]] = set()
        splits = [
            Split(
                self,
                swapped,
                size,
                allowed,
                templates,
                differ,
                same_template,
                own_sources,
                rng,
                seen,
            )
            for size, allowed, templates in zip(
                sizes,
                split_values(self.causal_model, self.held_out, rng),
                split_templates(self.templates, rng),
                strict=True,
            )
        ]
        generated, first = fill(splits, model, minimum_accuracy, batch_size)
        train, test = (Dataset.from_list(split.rows()) for split in splits)
        held = [name for group in grouped(self.held_out) for name in group]
        held += ["template"] if len(self.templates) >= 3 else []
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

    def _check_swap(self, swapped: Sequence[str]) -> None:
        domains = self.causal_model.domains
        for name in swapped:
            if name not in domains:
                raise ValueError(f"variable must be one of {', '.join(domains)}, got {name!r}")
            if len(domains[name]) < 2:
                raise ValueError(f"variable: {name!r} never varies, its domain is {domains[name]}")
        if len(set(swapped)) < len(swapped):
            raise ValueError(f"variable must name each once, got {list(swapped)}")
        if not swapped:
            raise ValueError("variable must name at least one, got none")
