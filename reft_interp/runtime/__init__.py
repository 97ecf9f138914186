"""Where and when interventions run on a hooked, frozen model.

`placement` says where, `running` runs a batch and records what it holds, `sources` says what is
read, `generation` continues prompts, `saving` writes folders, `intervened` is the object that a
user sees, and `composition` puts several of them together. Not here: training and scores.
"""

from reft_interp.runtime.activations import activations
from reft_interp.runtime.composition import compose, interpolated, scaled
from reft_interp.runtime.intervened import IntervenedModel
from reft_interp.runtime.placement import Placement
from reft_interp.runtime.sources import EditedSource
from reft_interp.runtime.truncating import truncate_prompts

__all__ = [
    "EditedSource",
    "IntervenedModel",
    "Placement",
    "activations",
    "compose",
    "interpolated",
    "scaled",
    "truncate_prompts",
]
