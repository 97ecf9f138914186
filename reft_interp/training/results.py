"""Read a saved training back: the interventions, their losses, their settings."""

from pathlib import Path
from typing import Any

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.saving import read_notes


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
