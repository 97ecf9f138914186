"""Rows of a `datasets.Dataset`: whether they are consistent, and a hash of what they say.

Here: the checks that counterfactual and labelled data share, and those of a counterfactual row,
each with a message that shows the row. Next door: `counterfactuals`; above, `tasks.labelled`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, cast

from datasets import Dataset

from reft_interp.runtime.batching import check_several

Pairs = Dataset | Sequence[Mapping[str, Any]]
"""Counterfactual rows: base, source, label, and choices and spans where they are needed."""


def content_hash(*splits: Dataset | None) -> str:
    """SHA-256 of the rows, in order: equal rows give equal hashes in any process, on any machine.

    The order of columns does not count, nor does how the rows are stored.
    """
    digest = hashlib.sha256()
    for split in splits:
        rows = None if split is None else rows_of(split)
        digest.update(_canonical_json(rows).encode() + b"\n")
    return digest.hexdigest()


def check_row(where: str, row: Mapping[str, Any], prompt: str, answers: Sequence[str]) -> None:
    """Check a prompt of a row, the answers that it names, and its choices.

    Args:
        where: the split and number of the row, for the message.
        prompt: name of the column with the prompt.
        answers: names of the columns whose value must be one of `choices`.

    Raises:
        TypeError: choices are no list of texts.
        ValueError: the prompt is no text, or it or a choice is empty, there are fewer than two
            choices or one twice, an answer is not among the choices, or prompt and choices would
            meet in two spaces.
    """
    text, choices = row[prompt], row["choices"]
    if not isinstance(text, str) or not text:
        raise ValueError(f"{where}: {prompt} must be a prompt, got {text!r} in {dict(row)}")
    if not _is_texts(choices):
        raise TypeError(f"{where}: choices must be a list of texts, got {choices!r} in {dict(row)}")
    if not choices or len(set(choices)) != len(choices) or len(choices) < 2 or not all(choices):
        raise ValueError(
            f"{where}: choices must be two or more different answers, got {choices!r} "
            f"in {dict(row)}"
        )
    for name in answers:
        if row[name] not in choices:
            raise ValueError(
                f"{where}: {name} must be one of the row's choices {choices!r}, got {row[name]!r} "
                f"in {dict(row)}. Choices carry their leading space."
            )
    if text[-1].isspace() and any(choice[0].isspace() for choice in choices):
        raise ValueError(
            f"{where}: {prompt} ends in a space and the choices {choices!r} begin with one; "
            f"take it off the prompt in {dict(row)}"
        )


def check_spans(where: str, row: Mapping[str, Any], prompt: str, spans: str) -> None:
    """Check that named spans lie inside their prompt.

    A span that is None is absent: datasets fills one in where only other rows have the name.

    Raises:
        TypeError: the spans are no mapping.
        ValueError: a span is no pair of whole numbers, empty, reversed, or reaches outside the
            prompt.
    """
    named = row[spans]
    if not isinstance(named, Mapping | None):
        raise TypeError(
            f"{where}: {spans} must be a mapping of names to [start, end], got {named!r} in "
            f"{dict(row)}"
        )
    for name, span in (named or {}).items():
        if span is None:
            continue
        try:
            start, end = map(index, span)
            right = 0 <= start < end <= len(row[prompt])
        except (TypeError, ValueError):  # no pair, or not of whole numbers
            right = False
        if not right:
            raise ValueError(
                f"{where}: the span {name!r} in {spans} must be [start, end], whole numbers with "
                f"0 <= start < end <= {len(row[prompt])} (the length of {prompt}), got {span!r} "
                f"in {dict(row)}"
            )


def sources_of(row: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The sources of a counterfactual row by name; one without a name where there is one."""
    if "sources" in row:
        return row["sources"]
    return {"": {"prompt": row["source"], "spans": row["source_spans"]}}


def check_pair(where: str, row: Mapping[str, Any]) -> None:
    """Check a counterfactual row: base, sources, and what is said of them.

    Raises:
        TypeError: sources are no mapping, or one of them none with a text as its prompt; as
            `check_row` and `check_spans`.
        ValueError: base and sources are the same; as `check_row` and `check_spans`.
    """
    check_row(where, row, "base", ["label", "base_answer"])
    check_spans(where, row, "base", "base_spans")
    sources = sources_of(row)
    if not isinstance(sources, Mapping) or not sources:
        raise TypeError(
            f"{where}: sources must be a mapping of names to sources, got {sources!r} in "
            f"{dict(row)}"
        )
    for name, source in sources.items():
        called, spans = "source", "source_spans"
        if name:
            called, spans = f"sources[{name!r}]", f"the spans of sources[{name!r}]"
            if not isinstance(source, Mapping) or not isinstance(source.get("prompt"), str):
                raise TypeError(
                    f"{where}: {called} must be a mapping whose 'prompt' is a text, got "
                    f"{source!r} in {dict(row)}"
                )
        given = {**row, called: source["prompt"], spans: source.get("spans")}
        check_row(where, given, called, [])
        check_spans(where, given, called, spans)
    if all(source["prompt"] == row["base"] for source in sources.values()):
        raise ValueError(
            f"{where}: source must differ from its base, or no interchange changes anything, both "
            f"are {row['base']!r}"
        )


def check_source_names(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Check that all rows of all splits have sources of the same names, or one source each.

    Raises:
        ValueError: a row has others than the first.
    """
    named = [
        (f"{name} row {i}", sorted(row["sources"]) if "sources" in row else None)
        for name, rows in splits.items()
        for i, row in enumerate(rows)
    ]
    first, expected = named[0]
    for where, names in named:
        if names != expected:
            raise ValueError(
                f"{where}: sources must be named alike in all rows of train and test, got "
                f"{names or 'one source'}, and {first} has {expected or 'one source'}"
            )


def check_columns(name: str, split: Any, required: Sequence[str]) -> None:
    """Check that a split has rows and every column that its rows need.

    Raises:
        TypeError: `split` is not a `datasets.Dataset`.
        ValueError: it is empty, or columns are missing.
    """
    if not isinstance(split, Dataset):
        raise TypeError(
            f"{name} must be a datasets.Dataset, got {type(split).__name__}; "
            "Dataset.from_list makes one from rows"
        )
    missing = [column for column in required if column not in split.column_names]
    if missing:
        raise ValueError(
            f"{name} must have the columns {', '.join(required)}; {', '.join(missing)} missing, "
            f"it has {', '.join(split.column_names) or 'none'}"
        )
    if not len(split):
        raise ValueError(f"{name} must have rows, got none")


def check_pairs(pairs: Any, argument: str) -> None:
    """Check that something is rows, whatever they hold.

    Raises:
        TypeError: it is no list and no Dataset.
        ValueError: it holds none.
    """
    check_several(pairs, argument)
    if not isinstance(pairs, Dataset | Sequence):
        raise TypeError(f"{argument} must be a list or a Dataset, got {type(pairs).__name__}")
    if len(pairs) == 0:
        raise ValueError(f"{argument} must hold at least one row, got none")


def rows_of(split: Dataset) -> list[dict[str, Any]]:
    """The rows of a split, as dictionaries."""
    return split.to_list()


def listed_rows(pairs: Pairs) -> list[Mapping[str, Any]]:
    """Rows as a list of mappings; a Dataset's all at once, which one by one takes far longer."""
    if isinstance(pairs, Dataset) and pairs.format["type"] != "custom":  # a transform of its own
        return [*rows_of(pairs)]
    return list(cast("Sequence[Mapping[str, Any]]", pairs))


def _is_texts(given: Any) -> bool:
    """Whether something is a list, and of texts alone; None is an empty one."""
    if given is None:
        return True
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and all(isinstance(one, str) for one in given)
    )


def _canonical_json(rows: Any) -> str:
    return json.dumps(rows, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
