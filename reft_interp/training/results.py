"""What a training is saved with, and read back: interventions, losses, settings."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.saving import read_notes
from reft_interp.training.hyperparameters import plain_values
from reft_interp.whole_files import write_whole

Result = TypeVar("Result", bound="TrainingResult")


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """Interventions that were trained, and how the training went."""

    intervened: IntervenedModel
    """All of them in place."""
    losses: pd.DataFrame = field(repr=False)
    """Training losses: step, epoch, loss."""
    settings: dict[str, Any]
    """What they were trained with."""

    def save(self, folder: str | Path) -> None:
        """Write the interventions, their losses, and in the notes what they were trained with.

        Raises:
            OSError: the folder cannot be written.
        """
        self.intervened.save(folder, {"training": self.settings})
        write_whole(Path(folder) / "losses.csv", self.losses.to_csv(index=False))

    @classmethod
    def load(cls: type[Result], folder: str | Path, model: TransformerBridge) -> Result:
        """Read what `save` wrote.

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
        return cls(intervened, pd.read_csv(Path(folder) / "losses.csv"), notes["training"])


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
