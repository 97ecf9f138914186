"""Rows of data as tokenized batches on the model's device, sorted so that little is padding."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from datasets import Dataset
from torch.nn.functional import pad
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import IGNORED, TokenizedBatch, tokenize
from reft_interp.models.devices import device_of
from reft_interp.models.sharding import is_sharded
from reft_interp.runtime.context import context_length
from reft_interp.runtime.running import is_causal

Row = str | Mapping[str, Any]
"""A prompt, or a mapping with `prompt` and, where needed, `answer`, `spans`, `choices`, `edits` (of
placements that have a name, which ones this row asks for), and (for encoders) `text_pair`: the text
that makes a pair with the prompt."""
Rows = Sequence[Row] | Dataset
_ROW = '[{"prompt": "The key", "answer": " is"}]'
_PAIR = '[{"base": "The key", "source": "The doors", "base_answer": " is", "label": " are"}]'
_TAKE_PAIRS = "pairs are for fit_das, gather_evidence and interchange_accuracy"


def check_several(rows: Any, argument: str = "rows") -> None:
    """Raise unless something is rows, whatever they are.

    Raises:
        TypeError: a single string or mapping, something with splits, or nothing that can be read
            row by row.
    """
    if (
        isinstance(rows, Mapping)
        and rows
        and all(isinstance(one, Dataset) for one in rows.values())
    ):
        raise TypeError(
            f"{argument} must be rows, got {type(rows).__name__}: give one of its splits, "
            f"{', '.join(f'[{name!r}]' for name in rows)}"
        )
    if hasattr(rows, "iloc"):
        raise TypeError(f'{argument} must be rows, got a DataFrame: give its .to_dict("records")')
    if isinstance(rows, Iterator):  # which can be read only once
        raise TypeError(
            f"{argument} must be a list of rows, got a {type(rows).__name__}: give list(...)"
        )
    if isinstance(rows, str | Mapping):
        raise TypeError(f"{argument} must be a list of rows, got one {type(rows).__name__}")
    if hasattr(rows, "train") and hasattr(rows, "test"):
        raise TypeError(f"{argument} must be a list or a Dataset of rows, {_of_splits(rows)}")
    try:
        iter(rows)
    except TypeError:
        raise TypeError(f"{argument} must be a list of rows, got {rows!r}") from None


def _of_splits(given: Any) -> str:
    """What rows look like, and what to do with something that has splits of them instead."""
    name = type(given).__name__
    paired = "base" in getattr(given.train, "column_names", ())
    told = f"; {_TAKE_PAIRS}" if paired else ""
    return f"as {_PAIR if paired else _ROW}, got {name}: give its .train or its .test{told}"


def as_list(rows: Rows, argument: str = "rows") -> list[Mapping[str, Any]]:
    """Rows as mappings with a `prompt`.

    Raises:
        TypeError: a single string, something that is no row, or a prompt that is no text.
        ValueError: there are none, or one has no prompt.
    """
    check_several(rows, argument)
    mappings: list[Mapping[str, Any]] = []
    for i, row in enumerate(cast("Sequence[Row]", rows)):
        if isinstance(row, str):
            row = {"prompt": row}
        if not isinstance(row, Mapping):
            raise TypeError(f"{argument}: row {i} must be a string or a mapping, got {row!r}")
        if "prompt" not in row:
            told = f"; it is a counterfactual pair: {_TAKE_PAIRS}" if "base" in row else ""
            raise ValueError(f"{argument}: row {i} has no 'prompt', only {sorted(row)}{told}")
        if not isinstance(row["prompt"], str):
            raise TypeError(
                f"{argument}: row {i} must have a text as its prompt, got {row['prompt']!r}"
            )
        mappings.append(row)
    if not mappings:
        raise ValueError(f"{argument} must hold at least one row, got none")
    return mappings


def warn_of_two_spaces(rows: Sequence[Mapping[str, Any]], argument: str = "rows") -> None:
    """Warn where a prompt ends in a space and its answer begins with one, which models hardly ever
    read, so that they give no such answer."""
    for i, row in enumerate(rows):
        answer = row.get("answer")
        if isinstance(answer, str) and row["prompt"].endswith(" ") and answer.startswith(" "):
            warnings.warn(
                f"{argument}: in row {i} the prompt ends in a space and the answer begins with "
                f"one, {row['prompt'][-20:] + answer[:20]!r}: take one of them off",
                stacklevel=3,
            )
            return


def choices_of(row: Mapping[str, Any], where: str) -> list[str]:
    """The `choices` of a row, as a list; an empty one where it has none.

    Args:
        row: with them or without.
        where: what an error calls the row, as "rows: row 3".

    Raises:
        TypeError: the choices are one text, whose letters would be taken for them.
    """
    choices = row.get("choices")
    if isinstance(choices, str):
        raise TypeError(
            f"{where} must have a list of texts as its choices, got one text, {choices!r} (a CSV "
            "file cannot hold lists: JSON lines and parquet can)"
        )
    # A DataFrame or a formatted Dataset holds an array, which is neither true nor false.
    return [] if choices is None else list(choices)


def encode(
    model: TransformerBridge,
    rows: Rows,
    *,
    answers: bool = False,
    max_length: int | None = None,
    padding_side: Literal["left", "right"] = "right",
) -> TokenizedBatch:
    """Tokenize rows, with their `answer` where asked for.

    An encoder sees masks in the answer's place: it would only copy what it can see. It reads a
    row with `text_pair` as its tokenizer encodes pairs.

    Args:
        model: whose tokenizer it is.
        rows: prompts, or mappings with `prompt`.
        answers: whether their answers follow them.
        max_length: tokens after which the tokenizer cuts a prompt; nothing is cut by default.
        padding_side: where short rows are filled up.

    Raises:
        TypeError: a prompt or an answer that is no text, `edits` that are no names.
        ValueError: a row lacks what is needed, or is longer than what the model can read (the
            message gives its number); answers for an encoder whose tokenizer has no mask token;
            a pair of texts in some rows alone, or for a decoder.
    """
    mappings = as_list(rows)
    if answers and any("answer" not in row for row in mappings):
        missing = next(i for i, row in enumerate(mappings) if "answer" not in row)
        raise ValueError(f"rows: row {missing} has no 'answer', only {sorted(mappings[missing])}")
    for name in ("prompt", "answer") if answers else ("prompt",):
        for i, row in enumerate(mappings):
            if not isinstance(row[name], str):
                raise TypeError(f"rows: row {i} must have text as its {name!r}, got {row[name]!r}")
    batch = tokenize(
        model.tokenizer,
        [row["prompt"] for row in mappings],
        [row["answer"] for row in mappings] if answers else None,
        spans=[row.get("spans") or {} for row in mappings],
        text_pairs=_text_pairs(model, mappings),
        max_length=max_length,
        padding_side=padding_side,
    )
    edits = tuple(_edits(i, row.get("edits")) for i, row in enumerate(mappings))
    batch = replace(batch, edits=edits)
    _check_lengths(model, batch)
    if answers and not is_causal(model):
        mask = model.tokenizer.mask_token_id
        if mask is None:
            raise ValueError(
                f"{model.cfg.model_name}: its tokenizer has no mask token to answer in"
            )
        hidden = batch.input_ids.masked_fill(batch.labels != IGNORED, mask)
        batch = replace(batch, input_ids=hidden)
    return batch.to(device_of(model))


def beside_answers(
    model: TransformerBridge, sources: TokenizedBatch, bases: TokenizedBatch
) -> TokenizedBatch:
    """Sources as a model reads them beside bases that are answered: an encoder sees a mask for each
    token of the base's answer, behind the source's prompt as behind the base's. So a prompt that is
    its own source is swapped with itself. A decoder sees no answer before it gives one.

    Args:
        model: whose masks they are.
        sources: prompts, padded on the right.
        bases: one for each of them, answered or not.

    Raises:
        ValueError: with its masks a source is longer than what the model can read.
    """
    masks = (bases.answer_end - bases.prompt_end).tolist()
    if is_causal(model) or not any(masks):
        return sources
    ends = (sources.prompt_end + torch.tensor(masks, device=sources.prompt_end.device)).tolist()
    room = max(0, max(ends) - sources.input_ids.shape[1])
    ids, attention, labels = (
        pad(tensor, (0, room), value=filler)
        for tensor, filler in (
            (sources.input_ids, 0),
            (sources.attention_mask, 0),
            (sources.labels, IGNORED),
        )
    )
    for row, (start, end) in enumerate(zip(sources.prompt_end.tolist(), ends, strict=True)):
        ids[row, start:end] = model.tokenizer.mask_token_id
        attention[row, start:end] = 1
    types = sources.token_type_ids
    read = replace(
        sources,
        input_ids=ids,
        attention_mask=attention,
        labels=labels,
        answer_end=torch.tensor(ends, device=sources.answer_end.device),
        token_type_ids=None if types is None else pad(types, (0, room)),
    )
    _check_lengths(model, read, "sources", "masks for the answer of its base")
    return read


def _edits(row: int, asked: Any) -> frozenset[str] | None:
    names = [asked] if isinstance(asked, str) else asked
    if names is None:
        return None
    if not isinstance(names, Sequence | Set) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"rows: row {row} must have a name or a list of names as its 'edits', got {asked!r}"
        )
    return frozenset(names)


def _text_pairs(model: TransformerBridge, rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    pairs = [row.get("text_pair") for row in rows]
    given = [text is not None for text in pairs]
    if not any(given):
        return None
    if is_causal(model):
        raise ValueError(
            f"rows: row {given.index(True)} has a 'text_pair', and {model.cfg.model_name} is a "
            "decoder, which reads one text: write both into the prompt"
        )
    if not all(given):
        raise ValueError(
            f"rows: row {given.index(False)} has no 'text_pair', but others do: rows of one "
            "batch are all pairs or none"
        )
    return cast("list[str]", pairs)


def _check_lengths(
    model: TransformerBridge,
    batch: TokenizedBatch,
    argument: str = "rows",
    behind: str = "its answer",
) -> None:
    lengths, most = batch.answer_end - batch.prompt_start, context_length(model)
    if most is None or int(lengths.max()) <= most:
        return
    row = int((lengths > most).nonzero()[0])
    answer = int(batch.answer_end[row] - batch.prompt_end[row])
    of_answer = f" ({answer} of them {behind})" if answer else ""
    quoted = repr(batch.prompts[row][:40])
    raise ValueError(
        f"{argument}: row {row} has {int(lengths[row])} tokens{of_answer}, and "
        f"{model.cfg.model_name} can read {most} ({quoted} ...). Cut prompts with max_length= of "
        "fit_reft, or truncate_prompts(model, rows, max_length)"
    )


def warn_of_glued_answers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Warn where every answer begins with a word that runs into its prompt's last one, or into a
    mark behind which a blank is written: "The key" and "is" make "The keyis", "Answer:" and "yes"
    make "Answer:yes". Single letters, as toy tasks have them, are left alone."""

    def glued(row: Mapping[str, Any]) -> bool:
        return bool(
            re.search(r"([A-Za-z]{2}|[.,:;?!])\Z", row["prompt"])
            and re.match(r"[A-Za-z]{2}", row["answer"])
        )

    if all(map(glued, rows)):
        prompt, answer = rows[0]["prompt"], rows[0]["answer"]
        warnings.warn(
            f"no answer begins with a blank, and no prompt ends with one: the model reads "
            f"{(prompt + answer)[-len(answer) - 12 :]!r}. An answer is mostly meant to begin with "
            f"one: {' ' + answer!r}",
            stacklevel=2,
        )


def by_length(rows: Sequence[Mapping[str, Any]], size: int) -> Iterator[list[int]]:
    """Indices of rows in groups of `size`, rows of similar length together.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    lengths = [len(row["prompt"]) + len(row.get("text_pair") or "") for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def run_what_fits(
    model: TransformerBridge,
    rows: Sequence[int],
    size: int,
    run: Callable[[Sequence[int]], None],
    *,
    description: str,
    progress: bool = False,
) -> None:
    """Run on some rows at a time, on half as many from where memory does not hold them.

    Args:
        model: what runs.
        rows: their numbers, in the order in which they run.
        size: how many run at once, at first.
        run: what runs on them. It keeps nothing of rows that memory did not hold.
        description: of the progress bar.
        progress: show it.

    Raises:
        torch.OutOfMemoryError: memory does not hold one; of a model that is sharded over
            processes, not so many as were asked for.
    """
    done = 0
    with tqdm(total=len(rows), disable=not progress, desc=description, leave=False) as bar:
        while done < len(rows):
            group = rows[done : done + size]
            if _fits(model, run, group):
                done += len(group)
                bar.update(len(group))
            else:
                size = len(group) // 2


def _fits(
    model: TransformerBridge, run: Callable[[Sequence[int]], None], rows: Sequence[int]
) -> bool:
    try:
        run(rows)
    except torch.OutOfMemoryError as error:
        if len(rows) == 1:
            raise
        if is_sharded(model):
            # The other processes run their blocks as often as before, and would wait for this one.
            raise torch.OutOfMemoryError(
                f"no memory for {len(rows)} rows at once, and where processes share a model none "
                "can run fewer by itself: give PreparedRows a smaller batch_size=, or shorten the "
                f"rows (max_length=). ({error})"
            ) from None
    else:
        return True
    # Not in the except clause: there the error still holds what ran.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
