"""Instruction following: Alpaca-format data to train on, free text to compare with a reference.

As Wu et al. 2024 run it (arXiv:2404.03592, section 4.4). Next door: `judging` compares outputs
with those of another system, `templates` has the prompts.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from reft_interp.evaluation.metrics import Metric, RowNumbers, read_once
from reft_interp.runtime.batching import Rows, as_list
from reft_interp.tasks.suites.judging import rouge_l
from reft_interp.tasks.suites.paper_recipes import paper_recipe
from reft_interp.tasks.suites.reading import (
    Record,
    as_dataset,
    check_record,
    hold_out,
    keep_apart,
    listing,
    locate,
    read_hub,
    read_json,
)
from reft_interp.tasks.suites.recipe import Recipe
from reft_interp.tasks.suites.suite import Suite
from reft_interp.tasks.suites.templates import alpaca_prompt, chat_prompt, check_chat_template
from reft_interp.whole_files import write_whole

_EXPECTED = "alpaca_*.json (to train on) and alpaca_eval*.json (to test on)"


def instructions(
    path_or_hub_id: str | os.PathLike[str] = "tatsu-lab/alpaca",
    *,
    evaluation: str | os.PathLike[str] | None = None,
    template: Literal["alpaca", "chat"] = "alpaca",
    tokenizer: PreTrainedTokenizerBase | None = None,
    n_development: int = 0,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> Suite:
    """Instructions and the responses to give, as Alpaca has them (Taori et al. 2023).

    Rows have `instruction` and `input` besides. The metric is an overlap with the reference,
    which says little about how good a response is: `win_rate` asks a judge.

    Args:
        path_or_hub_id: training rows with `instruction`, `output` and, where there is one,
            `input`: a JSON file, a dataset of the hub, or a folder with one file
            `alpaca_*.json`, and `alpaca_eval*.json` to test on. Rows without an output are left
            out, and so are those that the test set has, too; both are counted in `str(suite)`.
        evaluation: a JSON file of AlpacaEval's format (`instruction`, and `output` of the
            system to compare with): the test set "alpaca_eval". By default that of the folder.
        template: Alpaca's prompt, or the tokenizer's chat template.
        tokenizer: for template="chat".
        n_development: training rows to hold out for choosing settings.
        seed: of which these are.
        recipe: instead of the paper's for LoReFT with Llama-2 7B; see `paper_recipe`.

    Raises:
        ValueError: nothing there to read, a bad row (it is named), or template="chat" without a
            tokenizer that has a chat template.
    """
    if template not in ("alpaca", "chat"):
        raise ValueError(f'template must be "alpaca" or "chat", got {template!r}')
    if template == "chat":
        check_chat_template(tokenizer)
    records, evaluation = _read(path_or_hub_id, evaluation)
    references = (
        [] if evaluation is None else read_json(Path(evaluation), ("instruction", "output"))
    )

    def row(record: Record) -> Record:
        # White space at the ends of an output says nothing, and is not learned.
        output = record["output"].strip()
        texts = {"instruction": record["instruction"], "input": record.get("input") or ""}
        if template == "chat":
            assert tokenizer is not None
            prompt = chat_prompt(tokenizer, **texts)
        else:
            prompt = alpaca_prompt(**texts)
        kept = {"dataset": record["dataset"]} if "dataset" in record else {}
        return {"prompt": prompt, "answer": output, "gold": output, **texts, **kept}

    usable = [record for record in records if record["output"].strip()]
    test = [row(record) for record in references]
    rows, _, repeated = keep_apart([row(record) for record in usable], [], test)
    train, development = hold_out(rows, n_development, seed, "instructions")
    tested = as_dataset(test)
    empty = len(records) - len(usable)
    without_output = [f"left out of training: {empty} without an output"] if empty else []
    return Suite(
        name="instructions",
        train=as_dataset(train),
        development=as_dataset(development),
        tests={} if tested is None else {"alpaca_eval": tested},
        template="Alpaca's" if template == "alpaca" else "the tokenizer's chat template",
        extract=lambda output: output.strip() or None,
        metric=_overlap(),
        max_new_tokens=2048,
        recipe=recipe or paper_recipe("instructions"),
        notes=(*without_output, *repeated),
    )


def write_outputs(
    path: str | os.PathLike[str], rows: Rows, outputs: Sequence[str], generator_name: str
) -> None:
    """Write what a system answered, as AlpacaEval reads it (`--model_outputs`).

    A JSON list of `dataset`, `instruction`, `output` and `generator`; an input stands below its
    instruction, after an empty line. The file is written whole or not at all.

    Args:
        rows: of `instructions`, with `instruction`.
        outputs: a continuation of each row's prompt, in their order.
        generator_name: what the system is called on a leaderboard.

    Raises:
        ValueError: not as many outputs as rows, a row without instruction, or no name.
    """
    listed = as_list(rows)
    if len(outputs) != len(listed):
        raise ValueError(f"outputs must be one for each of {len(listed)} rows, got {len(outputs)}")
    if not generator_name:
        raise ValueError("generator_name must be a name, got an empty string")
    records = [
        {
            "dataset": row.get("dataset") or "",
            "instruction": _whole_instruction(f"rows: row {i}", row),
            "output": output.strip(),
            "generator": generator_name,
        }
        for i, (row, output) in enumerate(zip(listed, outputs, strict=True))
    ]
    write_whole(Path(path), json.dumps(records, ensure_ascii=False, indent=2) + "\n")


def read_outputs(path: str | os.PathLike[str]) -> list[Record]:
    """What `write_outputs` wrote, or any file of AlpacaEval's format.

    Raises:
        ValueError: a row has no `instruction` or `output` (file and row are named).
    """
    return read_json(Path(path), ("instruction", "output"))


def _read(
    path_or_hub_id: str | os.PathLike[str], evaluation: str | os.PathLike[str] | None
) -> tuple[list[Record], str | os.PathLike[str] | None]:
    """Training records, and the file to test on."""
    place = locate(path_or_hub_id, _EXPECTED, files=True)
    if isinstance(place, str):
        splits = read_hub(place, None, _EXPECTED)
        if "train" not in splits:
            raise ValueError(
                f"path_or_hub_id: {place!r} must have a split train, it has {', '.join(splits)}"
            )
        return [
            check_record(f"{place} train row {i}", row, ("instruction", "output"))
            for i, row in enumerate(splits["train"].to_list())
        ], evaluation
    if place.is_file():
        return read_json(place, ("instruction", "output")), evaluation
    evaluations = sorted(place.glob("alpaca_eval*.json"))
    files = sorted(set(place.glob("alpaca_*.json")) - set(evaluations))
    if len(files) != 1 or len(evaluations) > 1:
        raise ValueError(
            f"path_or_hub_id must be a folder with one file of each of {_EXPECTED}, "
            f"{str(place)!r} has {listing(place)}; give the file itself"
        )
    found = evaluation if evaluation or not evaluations else evaluations[0]
    return read_json(files[0], ("instruction", "output")), found


def _whole_instruction(where: str, row: Mapping[str, Any]) -> str:
    if "instruction" not in row:
        raise ValueError(f"{where} must have an instruction, it has {', '.join(row)}")
    return "\n\n".join(filter(None, (row["instruction"], row.get("input"))))


def _overlap() -> Metric:
    def read(predicted: Sequence[Any], gold: Sequence[Any]) -> Callable[[RowNumbers], float]:
        each = np.array([rouge_l(p or "", g) for p, g in zip(predicted, gold, strict=True)])
        return lambda rows: sum(each[rows].tolist()) / len(rows)

    return read_once("ROUGE-L F1 with the reference (a proxy)", read, (0.0, 1.0))
