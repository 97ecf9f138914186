"""Counterfactual rows that a user brings: what is filled in, and which the model gets right.

Above: `counterfactuals`, which checks what comes out of here.
"""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.rows import Pairs, check_pair, check_pairs, check_source_names
from reft_interp.causal.variable_values import SIDES, names_in
from reft_interp.evaluation import Accuracy, answers_correctly
from reft_interp.evaluation.minimum_accuracy import check_accuracy

_OF_A_SIDE = {"answer", "spans"}  # `base_answer` and such are no values of a variable
_NEEDED = ("base", "base_answer", "label")
# What pyarrow raises is one of these, too.
_NOT_OF_ONE_KIND = (TypeError, ValueError, OverflowError)


def completed(splits: Mapping[str, Pairs], variable: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each split with what they left out: spans (none), and choices, which are all
    labels and base answers of both splits.

    Raises:
        TypeError: a split is no list of rows, or what should be a text or a mapping is none.
        ValueError: it is empty, a row lacks what nothing can stand for, is inconsistent or has
            other sources than the first, or the variable never varies, or is another one than those
            that rows have values of.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name, split in splits.items():
        check_pairs(split, name)
        found[name] = [_checked(f"{name}: row {i}", row) for i, row in enumerate(split)]
    every = [row for rows in found.values() for row in rows]
    _check_known(every, variable)
    _check_varies(every, variable)
    for name, rows in found.items():
        _check_changes(name, rows, variable)
    answers = sorted({row[column] for row in every for column in ("base_answer", "label")})
    bare = {answer for answer in answers if not answer.startswith(" ")}
    if both := sorted(answer for answer in bare if f" {answer}" in answers):
        raise ValueError(
            f"answers must have their leading space in all rows or in none, {both[0]!r} is there "
            "with it and without"
        )
    for row in every:
        row.setdefault("base_spans", None)
        if row.get("choices") is None:
            row["choices"] = answers
        elif isinstance(row["choices"], np.ndarray):  # as a DataFrame or a formatted Dataset has it
            row["choices"] = row["choices"].tolist()
        if "sources" not in row:
            row.setdefault("source_spans", None)
    # As they are here, before a Dataset fills in or refuses what is not of one kind.
    for name, rows in found.items():
        for i, row in enumerate(rows):
            check_pair(f"{name} row {i}", row)
    check_source_names(found)
    return found


def as_dataset(name: str, rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """The rows of a split, with every column that any of them has.

    Raises:
        ValueError: values of a column are of several kinds, or of one that no Dataset or no file of
            rows holds, as dates.
    """
    # Dataset.from_list would take the columns of the first row alone.
    columns = {key: [row.get(key) for row in rows] for row in rows for key in row}
    try:
        split = Dataset.from_dict(columns)
    except _NOT_OF_ONE_KIND as error:
        for key, values in columns.items():
            try:
                Dataset.from_dict({key: values})
            except _NOT_OF_ONE_KIND as why:
                raise ValueError(f"{name}: {_mixed(key, values)} ({why})") from error
        raise
    for key, values in cast("dict[str, list[Any]]", split.to_dict()).items():
        try:
            json.dumps(values)  # as rows are hashed and saved
        except TypeError as error:
            raise ValueError(f"{name}: {_mixed(key, columns[key])} ({error})") from error
    return split


def _mixed(column: str, values: Sequence[Any]) -> str:
    given = {i: value for i, value in enumerate(values) if value is not None}
    first = next(iter(given))
    other = next((i for i in given if type(given[i]) is not type(given[first])), None)
    if other is None:
        return (
            f"column {column!r} must hold texts, numbers or what is made of them, all of one kind, "
            f"row {first} has {given[first]!r}"
        )
    return (
        f"column {column!r} must hold values of one kind, row {first} has {given[first]!r} and "
        f"row {other} {given[other]!r}"
    )


def _checked(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise TypeError(f"{where} must be a mapping, got {row!r}")
    if not row.get("sources"):
        row = {column: value for column, value in row.items() if column != "sources"}
    source = "sources" if "sources" in row else "source"
    if missing := [column for column in (*_NEEDED, source) if column not in row]:
        raise ValueError(f"{where} lacks {missing}; it has {sorted(row)}")
    for column in (*_NEEDED, *(["source"] if source == "source" else [])):
        if not isinstance(row[column], str):
            raise TypeError(f"{where}: {column} must be a text, got {row[column]!r}")
    if not isinstance(answer := row.get("source_answer"), str | None):
        raise TypeError(f"{where}: source_answer must be a text, got {answer!r}")
    return dict(row)


def _check_known(rows: Sequence[Mapping[str, Any]], variable: str) -> None:
    """Raise where a variable is written nearly as one that rows have values of, and as none.

    Rows without any values of it are fine, whatever other columns they have: DAS reads none.
    """
    columns = {column for row in rows for column in row}
    parted = [column.partition("_") for column in columns]
    known = {name for side, _, name in parted if side in SIDES} - _OF_A_SIDE
    for name in names_in(variable, rows):
        near = [] if name in known else get_close_matches(name, sorted(known), n=1)
        if near:
            raise ValueError(
                f"variable must be one that the rows have values of (base_<variable> and "
                f"source_<variable>), or none of them: got {name!r}; did you mean {near[0]!r}?"
            )


def _check_varies(rows: Sequence[Mapping[str, Any]], variable: str) -> None:
    """Raise where all bases and sources have one value of the variable."""
    sides = [f"{side}_{variable}" for side in ("base", "source")]
    values = {str(row[side]) for row in rows for side in sides if side in row}
    if len(values) == 1:
        raise ValueError(
            f"variable: {variable!r} must vary, it is {values.pop()!r} in every base and source"
        )


def _check_changes(name: str, rows: Sequence[Mapping[str, Any]], variable: str) -> None:
    """Raise where no interchange of a split would change an answer: there is nothing to learn, or
    nothing to be wrong in."""
    if all(row["label"] == row["base_answer"] for row in rows):
        raise ValueError(
            f"{name} must have rows whose label differs from base_answer, it is the same in all "
            f"{len(rows)}, as if {variable!r} never changed an answer"
        )


def done_by(
    model: TransformerBridge,
    splits: Mapping[str, Sequence[dict[str, Any]]],
    minimum_accuracy: float,
    batch_size: int,
) -> tuple[dict[str, list[dict[str, Any]]], Accuracy]:
    """The rows of which a model gets every prompt right that an answer is given for, and its
    accuracy on these prompts.

    Raises:
        TypeError: `model` is none.
        ValueError: it gets too few prompts right, or nothing of a split.
    """
    if not isinstance(model, TransformerBridge):
        raise TypeError(f"model must be a TransformerBridge, as load_model gives, got {model!r}")
    pairs = [(name, row) for name, rows in splits.items() for row in rows]
    asked = [_prompts(row) for _, row in pairs]
    every = [one for some in asked for one in some]
    right = answers_correctly(model, every, batch_size=batch_size)
    accuracy = Accuracy(int(right.sum()), len(right))
    wrong = [one for one, is_right in zip(every, right, strict=True) if not is_right]
    spaces = _spaces(wrong)
    check_accuracy(accuracy, minimum_accuracy, len(pairs[0][1]["choices"]), spaces)
    said = iter(right)
    kept: dict[str, list[dict[str, Any]]] = {name: [] for name in splits}
    for (name, row), some in zip(pairs, asked, strict=True):
        # All of them are taken from the iterator, whatever the first says.
        if all([next(said) for _ in some]):
            kept[name].append(row)
    for name, rows in kept.items():
        if not rows:
            raise ValueError(
                f"{name} must have rows of which the model gets base and source right, it gets "
                f"none of {len(splits[name])} (accuracy on single prompts {accuracy}){spaces}"
            )
    return kept, accuracy


def _spaces(wrong: Sequence[Mapping[str, Any]]) -> str:
    """What to look at where answers that the model does not give begin without a space."""
    for row in wrong:
        if not row["answer"][0].isspace() and not row["prompt"][-1].isspace():
            return (
                f". (The answer {row['answer']!r} follows {row['prompt'][-20:]!r} without a space, "
                f"and a model that begins words with their space says {' ' + row['answer']!r}: "
                "choices and answers bring their leading space.)"
            )
    return ""


def _prompts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Base and sources, with their answers, where these are given."""
    base = {"prompt": row["base"], "answer": row["base_answer"], "choices": row["choices"]}
    if row.get("sources"):
        sources = [(one["prompt"], one.get("answer")) for one in row["sources"].values()]
    else:
        sources = [(row["source"], row.get("source_answer"))]
    others = [
        # A source's own answer may be another word than those that the base chooses from.
        {"prompt": prompt, "answer": answer, "choices": sorted({*row["choices"], answer})}
        for prompt, answer in sources
        if answer is not None
    ]
    return [base, *others]
