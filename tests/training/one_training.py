"""The training that `test_killed` kills, in a process of its own."""

from pathlib import Path

import torch
from tiny_models import tiny_parts

from reft_interp.interventions import LoReFT
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.training import train

WORDS = ["key", "keys", "door", "doors", "film", "films", "car", "cars"]
ROWS = [
    {"prompt": f"The {word} near the {other}", "answer": " are" if "s" in word else " is"}
    for word in WORDS
    for other in WORDS[:4]
]
STEPS = 24


def run(folder: Path, resume: bool) -> IntervenedModel:
    """All of it, or what is left; a checkpoint at each step. Dropout, so that the generators of
    random numbers have to go on where they were."""
    torch.manual_seed(0)
    model = wrap_model(*tiny_parts("llama"), name="tiny")
    intervened = IntervenedModel(
        model, Placement(LoReFT(2, dropout=0.2), Site("resid_post", 1), "l1")
    )
    train(
        intervened,
        ROWS,
        max_steps=STEPS,
        batch_size=8,
        learning_rate=1e-2,
        checkpoints=folder,
        save_strategy="steps",
        save_steps=1,
        resume=resume,
        progress=False,
    )
    return intervened
