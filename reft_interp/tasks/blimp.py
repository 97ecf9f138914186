"""BLiMP's minimal pairs as counterfactuals: what should follow, had the other sentence begun.

Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English"
(arXiv:1912.00582). A paradigm's two sentences part at one word: what stands before is a prompt, the
two words its choices. Prompts that want the one word and prompts that want the other are each
other's sources.
"""

import os
import random
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals
from reft_interp.evaluation import Accuracy, answers_correctly
from reft_interp.evaluation.minimum_accuracy import check_accuracy, check_share
from reft_interp.tasks.split_sizes import split_sizes
from reft_interp.tasks.suites.reading import Record, check_record, read_hub, read_json

_HUB = "nyu-mll/blimp"
_COLUMNS = ("sentence_good", "sentence_bad")


def blimp(
    file_or_paradigm: str | os.PathLike[str],
    model: TransformerBridge | None = None,
    *,
    n: int = 600,
    seed: int = 0,
    minimum_accuracy: float = 0.7,
    batch_size: int = 64,
) -> Counterfactuals:
    """Pairs of prompts with the same two choices, of one paradigm.

    In half of the pairs of each split the source wants the other word: the label is then not the
    base's own answer. No prompt of test is in train.

    Args:
        file_or_paradigm: a file as `regular_plural_subject_verb_agreement_1.jsonl` of its
            repository, or the name of a paradigm, which is read from the hub.
        model: is asked first; prompts that it gets wrong are left out. None: no model is asked.
        n: pairs of train and test together, two thirds of them in train; even.
        seed: of the split and of the draw.
        minimum_accuracy: share of prompts that the model must get right, where chance is 0.5.
        batch_size: prompts that the model reads at once.

    Returns:
        Rows with the columns `base_word` and `source_word`, for methods that read. A prompt is base
        of some rows and source of others, so rows are not independent: intervals over them, which
        take them to be, are too narrow (by up to √2 where each pair is there in both directions).

    Raises:
        ValueError: no such file or paradigm, a file of another format, n odd or below 6,
            `minimum_accuracy` no share, a model that is less accurate, or too few prompts that have
            the same choices and want different ones.
    """
    check_share("minimum_accuracy", minimum_accuracy)
    train_size, test_size = split_sizes(n)
    prompts = _prompts(_sentences(file_or_paradigm))
    # A prompt counts once; where the paradigm has it with both answers, not at all.
    wanted: dict[str, set[str]] = {}
    for prompt in prompts:
        wanted.setdefault(prompt["prompt"], set()).add(prompt["answer"])
    unique = {p["prompt"]: p for p in prompts if len(wanted[p["prompt"]]) == 1}
    asked = list(unique.values())
    accuracy, left = None, ""
    if model is not None:
        right = answers_correctly(model, asked, batch_size=batch_size)
        found = Accuracy(int(right.sum()), len(right))
        check_accuracy(found, minimum_accuracy, 2)
        accuracy = found.value
        asked = [prompt for prompt, is_right in zip(asked, right, strict=True) if is_right]
        left = f"; of {len(right)} prompts those {len(asked)} are left that the model gets right"
    rng = random.Random(f"blimp {seed}")
    rng.shuffle(asked)
    cut = round(len(asked) * 2 / 3)
    train = _draw(asked[:cut], train_size, rng, "train")
    test = _draw(asked[cut:], test_size, rng, "test")
    return Counterfactuals(
        train=Dataset.from_list(train),
        test=Dataset.from_list(test),
        variable="word",
        seed=seed,
        generated=len(train) + len(test),
        kept=len(train) + len(test),
        model_accuracy=accuracy,
        model=None if model is None else getattr(model.cfg, "model_name", None),
        held_out=f"no prompt of test is in train{left}",
    )


def _sentences(file_or_paradigm: str | os.PathLike[str]) -> list[Record]:
    path = Path(file_or_paradigm).expanduser()
    if path.is_file():
        return read_json(path, _COLUMNS)
    name = str(file_or_paradigm)
    if "/" in name or "." in name:
        raise ValueError(
            f"file_or_paradigm must be a file or the name of a paradigm, got {name!r}, where "
            "there is no file"
        )
    read = read_hub(_HUB, name, f"{name}.jsonl", argument="file_or_paradigm")["train"].to_list()
    return [check_record(f"{name} row {i}", row, _COLUMNS) for i, row in enumerate(read)]


def _prompts(sentences: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What stands before the first word that differs, and the two words."""
    found = []
    for sentence in sentences:
        good, bad = (sentence[f"sentence_{kind}"].split(" ") for kind in ("good", "bad"))
        same = 0
        while same < min(len(good), len(bad)) and good[same] == bad[same]:
            same += 1
        # A pair that parts at its first word has no prompt; its feature is in the beginning.
        if 0 < same < min(len(good), len(bad)):
            words = [f" {words[same].rstrip('.?!,')}" for words in (good, bad)]
            found.append(
                {"prompt": " ".join(good[:same]), "answer": words[0], "choices": sorted(words)}
            )
    return found


def _draw(
    prompts: Sequence[Mapping[str, Any]], n: int, rng: random.Random, split: str
) -> list[dict[str, Any]]:
    of: dict[tuple[str, ...], dict[str, list[Mapping[str, Any]]]] = {}
    for prompt in prompts:
        if len(set(prompt["choices"])) == 2:
            answers = of.setdefault(tuple(prompt["choices"]), {})
            answers.setdefault(prompt["answer"], []).append(prompt)
    groups = [some for answers in of.values() if len(answers) == 2 for some in answers.values()]
    for some in groups:
        rng.shuffle(some)
    # Answers and choices take turns, so that few pairs have as many of each as can be.
    bases = [prompt for turn in zip_longest(*groups) for prompt in turn if prompt is not None]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    tries = 0
    for changes in (True, False):
        # Each base in turn, so that none is there twice before all are there once.
        while len(rows) < (n // 2 if changes else n) and tries < (20 if changes else 40) * n:
            base = bases[tries % len(bases)] if bases else {}
            tries += 1
            if not bases:
                break
            answers = of[tuple(base["choices"])]
            sources = [
                other
                for answer, some in answers.items()
                if (answer != base["answer"]) == changes
                for other in some
                if other is not base
            ]
            if sources:
                source = rng.choice(sources)
                key = base["prompt"], source["prompt"]
                rows.setdefault(key, _row(base, source))
        if len(rows) < (n // 2 if changes else n):
            raise ValueError(
                f"n must be fewer pairs: {split} has {len(bases)} prompts whose choices others "
                f"share and answer differently, which gave {len(rows)} of {n} pairs"
            )
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def _row(base: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "base": base["prompt"],
        "source": source["prompt"],
        "base_answer": base["answer"],
        "source_answer": source["answer"],
        "label": source["answer"],
        "choices": list(base["choices"]),
        "base_spans": {"prompt": [0, len(base["prompt"])]},
        "source_spans": {"prompt": [0, len(source["prompt"])]},
        "base_word": base["answer"],
        "source_word": source["answer"],
    }
