"""Interventions: two verbs (set, add) applied to values (of the source, affine, constant).

`INTERVENTIONS` is the one list of what can be saved and loaded by name.
"""

from collections.abc import Mapping
from typing import Any

from reft_interp.interventions.ablation import MeanAblation, ResampleAblation, ZeroAblation
from reft_interp.interventions.combination import LinearCombination
from reft_interp.interventions.edits import Intervention
from reft_interp.interventions.features import (
    FeatureEncoder,
    FeatureInterchange,
    SparseAutoencoder,
)
from reft_interp.interventions.interchange import (
    DistributedInterchange,
    Interchange,
    PlaceboInterchange,
)
from reft_interp.interventions.masks import BoundlessInterchange, MaskedInterchange
from reft_interp.interventions.nonlinear import NonlinearInterchange
from reft_interp.interventions.parts import orthogonal_parts
from reft_interp.interventions.red import RED
from reft_interp.interventions.reft import (
    ConsReFT,
    DiReFT,
    LobiReFT,
    LoReFT,
    NodiReFT,
    NoReFT,
)
from reft_interp.interventions.steering import Clamp, VectorAddition

INTERVENTIONS: dict[str, type[Intervention]] = {
    cls.__name__: cls
    for cls in (
        Interchange,
        DistributedInterchange,
        PlaceboInterchange,
        MaskedInterchange,
        BoundlessInterchange,
        FeatureInterchange,
        NonlinearInterchange,
        LoReFT,
        NoReFT,
        ConsReFT,
        DiReFT,
        LobiReFT,
        RED,
        VectorAddition,
        Clamp,
        ZeroAblation,
        MeanAblation,
        ResampleAblation,
        LinearCombination,
    )
}


def build_intervention(name: str, arguments: Mapping[str, Any]) -> Intervention:
    """An intervention of the saved class and shape, its tensors still to be loaded.

    Raises:
        ValueError: unknown class; the message lists the known ones.
    """
    if name not in INTERVENTIONS:
        raise ValueError(
            f"unknown intervention {name!r}; the known ones are {', '.join(INTERVENTIONS)}"
        )
    return INTERVENTIONS[name].from_arguments(arguments)


__all__ = [
    "INTERVENTIONS",
    "RED",
    "BoundlessInterchange",
    "Clamp",
    "ConsReFT",
    "DiReFT",
    "DistributedInterchange",
    "FeatureEncoder",
    "FeatureInterchange",
    "Interchange",
    "Intervention",
    "LinearCombination",
    "LoReFT",
    "LobiReFT",
    "MaskedInterchange",
    "MeanAblation",
    "NoReFT",
    "NodiReFT",
    "NonlinearInterchange",
    "PlaceboInterchange",
    "ResampleAblation",
    "SparseAutoencoder",
    "VectorAddition",
    "ZeroAblation",
    "build_intervention",
    "orthogonal_parts",
]
