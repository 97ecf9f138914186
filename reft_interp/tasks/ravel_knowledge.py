"""What a model knows of RAVEL, and counterfactual pairs made of that alone.

An attribute that the model does not know cannot be moved, and says nothing of a method. So the
model is asked first; how much is left is part of what is reported.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from jaxtyping import Bool
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals
from reft_interp.evaluation import answers_correctly
from reft_interp.evaluation.minimum_accuracy import check_share
from reft_interp.tasks.ravel import RAVEL

_TRIES = 200
"""Draws for one pair, before the facts are taken to be used up."""
_SCOUTS = 8
"""Entities on which prompts are chosen."""
_CANDIDATES = 12
"""Prompts of an attribute and split among which is chosen."""


@dataclass(frozen=True, eq=False)
class RAVELKnowledge:
    """Which prompts about which entities a model answers as RAVEL has it.

    `pairs` makes counterfactual rows for one attribute.
    """

    data: RAVEL
    model: str | None
    facts: pd.DataFrame = field(repr=False)
    """One row a question: entity, entity split, attribute, prompt, prompt split, answer, known."""
    minimum: float
    """Attributes of which the model knows a smaller share are left out."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Those that the model knows well enough."""
        return tuple(self.left.loc[self.left["used"], "attribute"])

    @property
    def left(self) -> pd.DataFrame:
        """How much there is to work with: attribute, prompts, entities, questions, known, share,
        used (whether the share is enough)."""
        lines = []
        for attribute, facts in self.facts.groupby("attribute", sort=False):
            known = int(np.sum(facts["known"].to_numpy()))
            lines.append(
                {
                    "attribute": str(attribute),
                    "prompts": len(set(facts["prompt"])),
                    "entities": len(set(facts["entity"])),
                    "questions": len(facts),
                    "known": known,
                    "share": known / len(facts),
                    "used": known >= self.minimum * len(facts),
                }
            )
        return pd.DataFrame(lines)

    def __str__(self) -> str:
        lines = [f"what {self.model or 'the model'} knows of RAVEL {self.data.entity_type}"]
        for row in self.left.to_dict("records"):
            used = "" if row["used"] else ": left out"
            lines.append(
                f"  {row['attribute']}: {row['known']} of {row['questions']} questions "
                f"({row['share']:.1%}){used}"
            )
        return "\n".join(lines)

    def pairs(
        self, attribute: str, *, n_train: int = 400, n_test: int = 400, seed: int = 0
    ) -> Counterfactuals:
        """Rows that ask whether an interchange moves one attribute, and no other.

        Half of the rows are of the `kind` "cause": the base asks for the attribute, and should be
        answered for the source's entity. Half are "isolate": the base asks for another attribute
        (`asked`), and should be answered as before. In both the two entities are answered
        differently. Train has RAVEL's training entities and prompts; half of test ("entity" in
        the column `held_out`) has other entities, half ("context") other prompts.

        Args:
            attribute: whose value is swapped.
            n_train: rows to train on.
            n_test: rows to test on.
            seed: of the draw.

        Returns:
            Rows with the span "entity", and for each attribute its value (`base_<attribute>`).
            `source_answer` is what the base's prompt should say of the source's entity: the source
            itself may be any text that mentions the entity.

        Raises:
            ValueError: the model does not know the attribute, or no other, or knows too little.
        """
        if attribute not in self.attributes:
            raise ValueError(
                f"attribute must be one that the model knows ({', '.join(self.attributes)}), "
                f"got {attribute!r}"
            )
        others = [other for other in self.attributes if other != attribute]
        if not others:
            raise ValueError(
                f"{self.model or 'the model'} knows {attribute!r} alone: nothing to isolate it from"
            )
        for name, n in (("n_train", n_train), ("n_test", n_test)):
            if n < 4:
                raise ValueError(f"{name} must be at least 4, got {n}")
        train = self._draw(attribute, others, "train", n_train, seed)
        entity = self._draw(attribute, others, "entity", n_test - n_test // 2, seed)
        context = self._draw(attribute, others, "context", n_test // 2, seed)
        return Counterfactuals(
            train=Dataset.from_list(train),
            test=Dataset.from_list([*entity, *context]),
            variable=attribute,
            seed=seed,
            generated=len(train) + len(entity) + len(context),
            kept=len(train) + len(entity) + len(context),
            model_accuracy=float(np.mean(self.facts["known"])),
            model=self.model,
            held_out="test has other entities in half of its rows, other prompts in the rest",
        )

    def _draw(
        self, attribute: str, others: Sequence[str], held_out: str, n: int, seed: int
    ) -> list[dict[str, Any]]:
        rng = random.Random(f"ravel {attribute} {held_out} {seed}")
        entity_split = "held out" if held_out == "entity" else "train"
        prompt_split = "held out" if held_out == "context" else "train"
        asked = {
            name: self._known.get((name, entity_split, prompt_split), {})
            for name in (attribute, *others)
        }
        isolated = [name for name in others if asked[name]]
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        while asked[attribute] and isolated and len(rows) < n:
            # Cause and isolate in turn, and of the other attributes each in turn.
            at = len(rows)
            name = attribute if at % 2 == 0 else isolated[at // 2 % len(isolated)]
            for _ in range(_TRIES):
                prompt = rng.choice(list(asked[name]))
                base, source = rng.sample(asked[name][prompt], 2)
                context = self._context(rng, source, prompt_split)
                row = self._row(attribute, name, prompt, base, source, context)
                key = row["base"], row["source"]
                if not _begin_alike(*row["choices"]) and key not in rows:
                    rows[key] = row | {"held_out": held_out}
                    break
            else:
                break
        if len(rows) < n:
            raise ValueError(
                f"{self.model or 'the model'} knows too little of {self.data.entity_type} for {n} "
                f"pairs on {attribute!r} ({held_out}): {len(rows)} were found; ask it about more "
                "entities, or for fewer pairs"
            )
        return list(rows.values())

    @cached_property
    def _known(self) -> dict[tuple[str, str, str], dict[str, list[str]]]:
        """Attribute, split of entities, split of prompts → prompt → entities."""
        found: dict[tuple[str, str, str], dict[str, list[str]]] = {}
        known = self.facts.loc[self.facts["known"]]
        for row in known.to_dict("records"):
            key = row["attribute"], row["entity split"], row["prompt split"]
            found.setdefault(key, {}).setdefault(row["prompt"], []).append(row["entity"])
        return {key: {p: e for p, e in some.items() if len(e) > 1} for key, some in found.items()}

    def _context(self, rng: random.Random, entity: str, split: str) -> str:
        """A prompt to read the entity in: one that asks something, or one that asks nothing."""
        asking, neutral = self._contexts[split]
        of_entity = [prompt for prompt, about in neutral if about in (None, entity)]
        return rng.choice(of_entity if of_entity and rng.random() < 0.5 else asking)

    @cached_property
    def _contexts(self) -> dict[str, tuple[list[str], list[tuple[str, str | None]]]]:
        """Of each split the prompts that ask, and those that do not, with whom they are about."""
        asking = [prompt for some in self.data.prompts.values() for prompt in some]
        return {
            split: (
                [prompt for prompt in asking if self._split(prompt) == split],
                [one for one in self.data.neutral.items() if self._split(one[0]) == split],
            )
            for split in ("train", "held out")
        }

    def _split(self, prompt: str) -> str:
        return "train" if self.data.prompt_splits[prompt] == "train" else "held out"

    def _row(
        self, attribute: str, asked: str, prompt: str, base: str, source: str, context: str
    ) -> dict[str, Any]:
        answers = [self.data.answer(prompt, entity, asked) for entity in (base, source)]
        cause = asked == attribute
        row: dict[str, Any] = {
            "base": prompt.replace("%s", base),
            # Nothing is asked of the source: the blank that a number would follow goes.
            "source": context.replace("%s", source).rstrip(),
            "base_answer": answers[0],
            "source_answer": answers[1],
            "label": answers[1] if cause else answers[0],
            "choices": answers,
            "base_spans": {"entity": _span(prompt, base)},
            "source_spans": {"entity": _span(context, source)},
            "kind": "cause" if cause else "isolate",
            "asked": asked,
        }
        for side, entity in (("base", base), ("source", source)):
            row[f"{side}_entity"] = entity
            for name, value in self.data.entities[entity].items():
                row[f"{side}_{name}"] = value
        return row


def _begin_alike(one: str, other: str) -> bool:
    """Whether one answer is the beginning of the other, which is then never the more probable."""
    return one.startswith(other) or other.startswith(one)


def ravel_knowledge(
    model: TransformerBridge,
    data: RAVEL,
    *,
    entities: int = 200,
    prompts: int = 2,
    minimum: float = 0.2,
    seed: int = 0,
    batch_size: int = 64,
) -> RAVELKnowledge:
    """Ask a model what it knows, with the prompts that it answers best.

    A question is answered as RAVEL has it when the greedy tokens are those of the value, all of
    them. Which prompts are kept is decided on other entities than those that are asked about.

    Args:
        model: the hooked model.
        data: RAVEL's data for one type of entity.
        entities: so many are asked about, half from its training split, half from the others;
            those whose names have the fewest tokens, which models have read of most.
        prompts: of each attribute and each split of prompts (training, held out) so many are kept,
            the best of twelve.
        minimum: attributes of which a smaller share is known are left out.
        seed: of the draw.
        batch_size: prompts run at once.

    Raises:
        ValueError: fewer entities than there are asked for, no prompts, a minimum that is no share,
            or no attribute is known.
    """
    if not 1 <= prompts <= _CANDIDATES:
        raise ValueError(f"prompts must be from 1 to {_CANDIDATES}, got {prompts}")
    check_share("minimum", minimum)
    drawn = _Entities(model, data, entities, seed)
    rng = random.Random(f"ravel prompts {seed}")
    kept = _best_prompts(model, data, drawn.scouts, prompts, rng, batch_size)
    questions = [
        {"entity": entity, "entity split": split, "attribute": attribute}
        | {"prompt": prompt, "prompt split": prompt_split}
        for attribute, prompt_split, prompt in kept
        for split, some in (("train", drawn.train), ("held out", drawn.held_out))
        # Held-out prompts are asked about the training entities: one thing new at a time.
        if (split, prompt_split) != ("held out", "held out")
        for entity in some
        if attribute in data.entities[entity]
    ]
    for question in questions:
        question["answer"] = data.answer(
            question["prompt"], question["entity"], question["attribute"]
        )
    facts = pd.DataFrame(questions).assign(known=_known(model, questions, batch_size))
    found = RAVELKnowledge(data, getattr(model.cfg, "model_name", None), facts, minimum)
    if not found.attributes:
        raise ValueError(
            f"model knows no attribute of {data.entity_type} (at least {minimum:.0%} of questions "
            f"is asked for):\n{found}"
        )
    return found


class _Entities:
    """Those that are asked about, and a few others on which prompts are chosen.

    Names of few tokens come first: the tokenizer has a token for what its corpus is full of, and
    most entities of RAVEL are none that a small model has read of.
    """

    def __init__(self, model: TransformerBridge, data: RAVEL, n: int, seed: int):
        rng = random.Random(f"ravel entities {seed}")
        tokens = {
            entity: len(model.tokenizer(f" {entity}")["input_ids"]) for entity in data.entities
        }
        training, others = (
            sorted(e for e in data.entities if (data.entity_splits[e] == "train") == is_training)
            for is_training in (True, False)
        )
        for some in (training, others):
            rng.shuffle(some)
            some.sort(key=tokens.__getitem__)
        available = min(len(training) - _SCOUTS, len(others)) * 2
        if not 4 <= n <= available:
            raise ValueError(f"entities must be from 4 to {available}, got {n}")
        self.scouts = training[:_SCOUTS]
        self.train = training[_SCOUTS : _SCOUTS + n // 2]
        self.held_out = others[: n // 2]


def _best_prompts(
    model: TransformerBridge,
    data: RAVEL,
    scouts: Sequence[str],
    keep: int,
    rng: random.Random,
    batch_size: int,
) -> Iterator[tuple[str, str, str]]:
    """Attribute, split, prompt: the best of some of each attribute and split."""
    candidates: dict[tuple[str, str], list[str]] = {}
    for attribute, prompts in data.prompts.items():
        for prompt in prompts:
            split = "train" if data.prompt_splits[prompt] == "train" else "held out"
            candidates.setdefault((attribute, split), []).append(prompt)
    asked = [
        {"entity": entity, "attribute": attribute, "prompt": prompt, "split": split}
        for (attribute, split), prompts in candidates.items()
        for prompt in rng.sample(prompts, min(_CANDIDATES, len(prompts)))
        for entity in scouts
        if attribute in data.entities[entity]
    ]
    for question in asked:
        question["answer"] = data.answer(
            question["prompt"], question["entity"], question["attribute"]
        )
    right: dict[tuple[str, str], dict[str, list[bool]]] = {}
    for question, is_right in zip(asked, _known(model, asked, batch_size), strict=True):
        of_prompts = right.setdefault((question["attribute"], question["split"]), {})
        of_prompts.setdefault(question["prompt"], []).append(bool(is_right))
    for (attribute, split), of_prompts in right.items():
        # Sorting is stable: of prompts that are as good, the first.
        best = sorted(of_prompts, key=lambda prompt: -sum(of_prompts[prompt]))
        for prompt in best[:keep]:
            yield attribute, split, prompt


def _known(
    model: TransformerBridge, questions: Sequence[Any], batch_size: int
) -> Bool[np.ndarray, "questions"]:
    rows = [
        {
            "prompt": question["prompt"].replace("%s", question["entity"]),
            "answer": question["answer"],
        }
        for question in questions
    ]
    return answers_correctly(model, rows, batch_size=batch_size)


def _span(prompt: str, entity: str) -> list[int]:
    start = prompt.index("%s")
    return [start, start + len(entity)]
