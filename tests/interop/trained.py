"""Interventions whose every parameter is far from its start, for tests of what shares them."""

import torch

from reft_interp.interventions import (
    RED,
    Clamp,
    ConsReFT,
    DiReFT,
    Intervention,
    LinearCombination,
    LobiReFT,
    LoReFT,
    MeanAblation,
    NoReFT,
    VectorAddition,
    ZeroAblation,
)
from reft_interp.subspace import Subspace

WIDTH, RANK = 32, 3
PROMPTS = ["The key near the doors is on the", "Yes,", "The author was"]


def trained(width: int = WIDTH) -> dict[str, Intervention]:
    """Each kind that reads no source, by name."""
    torch.manual_seed(0)
    some = Subspace.random(width, RANK, seed=3)
    made: dict[str, Intervention] = {
        "LoReFT": LoReFT(RANK, width),
        "LoReFT gelu": LoReFT(RANK, width, activation="gelu"),
        "NoReFT": NoReFT(RANK, width),
        "NoReFT offset": NoReFT(RANK, width, activation="relu", offset=True),
        "ConsReFT": ConsReFT(RANK, width),
        "DiReFT": DiReFT(RANK, width),
        "DiReFT orthonormal": DiReFT(RANK, width, orthonormal=True, activation="relu"),
        "LobiReFT": LobiReFT(RANK, width),
        "RED": RED(width),
        "VectorAddition": VectorAddition(torch.randn(width), strength=2),
        "Clamp": Clamp(some, torch.tensor([3.0, -2.0, 1.0])),
        "ZeroAblation": ZeroAblation(some),
        "MeanAblation": MeanAblation(some, torch.randn(width)),
    }
    with torch.no_grad():
        for intervention in made.values():
            for parameter in intervention.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    shifts = [made["LobiReFT"], made["VectorAddition"]]
    maps = [made["LoReFT"], made["RED"], LinearCombination([made["Clamp"], made["DiReFT"]], [2, 1])]
    curved = [made["LoReFT gelu"], made["NoReFT"], made["Clamp"]]
    made["sum of shifts"] = LinearCombination(shifts, [-1.5, 0.5])
    made["sum of maps"] = LinearCombination(maps, [0.7, -1, 0.5])
    made["sum of curves"] = LinearCombination(curved, [-1, 0.5, 0])
    return made


SOURCELESS = list(trained())
