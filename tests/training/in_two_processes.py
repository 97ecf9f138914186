"""What each of two processes runs for `test_processes`, launched by torch.distributed.run."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_parts
from torch.distributed.tensor import DTensor

from reft_interp.interventions import LoReFT
from reft_interp.models import load_model, wrap_model
from reft_interp.models.plain import plain_copy
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import ClassifierResult, fit_classifier, train

WORDS = ["key", "keys", "door", "doors", "film", "films", "car"]
# 21 rows in steps of 8: the last step has 5, and with steps of 4 a single one. Answers of
# different lengths: the mean of the two processes' means is not the mean.
ROWS = [
    {
        "prompt": f"The {word} near the {other}",
        "answer": " are here" if word.endswith("s") else " is",
    }
    for word in WORDS
    for other in WORDS[:3]
]
# Answers of different lengths here too.
EVALUATION = [row | {"answer": " no" if i % 2 else " no, no"} for i, row in enumerate(ROWS[:11])]
BROKEN = [*ROWS[:5], {"prompt": "Tokyo", "answer": " is"}, *ROWS[5:8]]
TOKENS = torch.tensor([[1, 5, 7, 9, 3]])
CASES = {
    "plain": {"batch_size": 8},
    # The last step of an epoch has one row, and so one of the processes none.
    "a process without rows": {"batch_size": 4},
    "accumulated": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "full run": {"batch_size": 8, "engine": "full"},
}


LABELLED = [row | {"label": int(row["answer"] == " is")} for row in ROWS]
SCORED = [row | {"label": len(row["prompt"]) + 0.5} for row in ROWS]
# Each with steps in which a process has no row.
CLASSIFIERS = {
    "classes": {"rows": LABELLED},
    "scores, the best of which is taken": {"rows": SCORED, "validation": SCORED[:9]},
    "the head alone": {"rows": LABELLED, "edited": False},
}


def saved_options(folder: Path) -> dict[str, Any]:
    return {
        "batch_size": 8,
        "evaluation": EVALUATION,
        "checkpoints": folder / "checkpoints",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }


SHARDED_CASES = {
    **CASES,
    "recomputed": {"batch_size": 8, "engine": "full", "gradient_checkpointing": True},
    "no memory for all": {"batch_size": 8, "memory_budget": 5_000},
}


def model():
    return wrap_model(*tiny_parts("llama"), name="tiny")


def trained(bridge, rows=ROWS, **options) -> tuple[IntervenedModel, list[float]]:
    """One training; the same in one process and in two, but for what `options` say."""
    start = Subspace.random(32, 2, seed=7)
    intervened = IntervenedModel(
        bridge, Placement(LoReFT(start=start), Site("resid_post", 1), "l1")
    )
    engine = options.pop("engine", "auto")
    budget = options.pop("memory_budget", None)
    prepared = PreparedRows(intervened, rows, engine=engine, memory_budget=budget)
    evaluation = (
        PreparedRows(intervened, options.pop("evaluation"), engine=engine)
        if ("evaluation" in options)
        else None
    )
    losses = train(
        intervened,
        prepared,
        evaluation,
        **({"epochs": 3, "learning_rate": 1e-2, "progress": False} | options),
    )
    return intervened, losses["loss"].tolist()


def classified(bridge, rows, *, edited: bool = True, **options) -> ClassifierResult:
    """One training of a head; the same in one process and in two."""
    given = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "progress": False} | options
    if not edited:
        return fit_classifier(bridge, rows, None, **given)
    return fit_classifier(bridge, rows, LoReFT(2), Site("resid_post", 1), "l1", **given)


def of_classifier(found: ClassifierResult) -> dict[str, Any]:
    return {
        "weights": torch.cat(
            [p.detach().flatten() for p in found.classifier.parameters()]
        ).tolist(),
        "losses": found.losses["loss"].tolist(),
        "scores": found.epochs["score"].tolist(),
    }


def evaluations(folder: Path) -> list[float]:
    """The evaluation losses that the last checkpoint tells of."""
    state = json.loads((folder / "checkpoint-9" / "trainer_state.json").read_text())
    return [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]


def weights(intervened: IntervenedModel) -> list[float]:
    return torch.cat([p.detach().flatten() for p in intervened.parameters()]).tolist()


def main(folder: Path) -> None:
    bridge, found = model(), {}
    for name, options in CASES.items():
        intervened, losses = trained(bridge, **options)
        found[name] = {"weights": weights(intervened), "losses": losses}
    for name, options in CLASSIFIERS.items():
        found[name] = of_classifier(classified(bridge, **options))
    rank = torch.distributed.get_rank()
    try:
        trained(bridge, batch_size=7)
    except ValueError as error:
        found["odd batch"] = str(error)
    # Checkpoints, evaluation and the best of them; then on from a checkpoint in the middle.
    options = saved_options(folder)
    intervened, losses = trained(bridge, **options)
    found["saved"] = {"weights": weights(intervened), "losses": losses}
    torch.distributed.barrier()
    found["evaluations"] = evaluations(folder / "checkpoints")
    torch.distributed.barrier()
    if rank == 0:
        (folder / "checkpoints" / "checkpoint-9" / "trainer_state.json").unlink()
    torch.distributed.barrier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed, losses = trained(bridge, **options, resume=True)
    found["resumed"] = {"weights": weights(resumed), "losses": losses}
    torch.distributed.barrier()
    # A row that gives NaN ends both processes, whichever has it.
    with torch.no_grad():
        token = bridge.tokenizer("Tokyo")["input_ids"][1]
        bridge.embed.weight[token] = float("nan")
    try:
        trained(bridge, BROKEN, batch_size=8, engine="full", epochs=1)
    except ValueError as error:
        found["broken"] = str(error)
    try:
        classified(bridge, [row | {"label": i % 2} for i, row in enumerate(BROKEN)], batch_size=8)
    except ValueError as error:
        found["broken classifier"] = str(error)
    found["sharded"] = sharded(folder / "tiny", rank)
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def sharded(folder: Path, rank: int) -> dict[str, Any]:
    """The same trainings in a model of which each process has a share."""
    if rank == 0:
        for part in tiny_parts("llama"):
            part.save_pretrained(folder)
    torch.distributed.barrier()
    bridge, found = load_model(folder, device="cpu", sharded=True), {}
    found["here"] = sum(local(p).numel() for p in bridge.blocks.parameters())
    found["logits"] = bridge(TOKENS)[0, -1].tolist()
    for name, options in SHARDED_CASES.items():
        intervened, losses = trained(bridge, **options)
        found[name] = {"weights": weights(intervened), "losses": losses}
    intervened, _ = trained(bridge, **SHARDED_CASES["plain"])
    found["words"] = intervened.generate(ROWS[:3], max_new_tokens=3)
    found["here after all"] = sum(local(p).numel() for p in bridge.blocks.parameters())
    with torch.no_grad():
        bridge.embed.weight[bridge.tokenizer("Tokyo")["input_ids"][1]] = float("nan")
    try:
        trained(bridge, BROKEN, batch_size=8, engine="full", epochs=1)
    except ValueError as error:
        found["broken"] = str(error)
    try:
        plain_copy(bridge)
    except ValueError as error:
        found["no plain model"] = str(error)
    return found


def local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


if __name__ == "__main__":
    main(Path(sys.argv[1]))
