"""What a training is saved with, and read back: interventions, losses, settings."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.saving import read_notes
from reft_interp.training.hyperparameters import plain_values
from reft_interp.whole_files import write_whole


def save_result(
    folder: str | Path, intervened: IntervenedModel, losses: pd.DataFrame, settings: dict[str, Any]
) -> None:
    """Write the interventions, their losses, and in the notes what they were trained with.

    Raises:
        OSError: the folder cannot be written.
    """
    intervened.save(folder, {"training": settings})
    write_whole(Path(folder) / "losses.csv", losses.to_csv(index=False))


def load_result(
    folder: str | Path, model: TransformerBridge
) -> tuple[IntervenedModel, pd.DataFrame, dict[str, Any]]:
    """What `fit_das` or `fit_reft` found, as their results save it.

    Raises:
        FileNotFoundError: the folder holds no saved intervention, or no losses.
        ValueError: it does not fit the model, or says nothing of a training.
    """
    intervened = IntervenedModel.load(folder, model)
    notes = read_notes(folder)
    if "training" not in notes:
        raise ValueError(
            f"{folder} holds interventions, but nothing of how they were trained: "
            "read it with IntervenedModel.load"
        )
    return intervened, pd.read_csv(Path(folder) / "losses.csv"), notes["training"]


def saved_settings(**settings: Any) -> dict[str, Any]:
    """What a training is told, as JSON has it: numpy's numbers as Python's.

    Raises:
        TypeError: an argument that JSON cannot hold, by its name: a result could not be saved.
    """
    plain = plain_values(settings)
    for name, value in plain.items():
        try:
            json.dumps(value)
        except TypeError:
            raise TypeError(
                f"{name} must be a number, a text, or a list or mapping of them, as a result is "
                f"saved with it, got {value!r}"
            ) from None
    return plain
