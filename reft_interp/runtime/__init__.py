"""Where and when interventions run on a hooked, frozen model.

`placement` says where, `running` runs a batch, `recording` keeps what a source run holds,
`generation` continues prompts, `saving` writes folders, and `intervened` is the object that a
user sees. Not here: training and scores.
"""

from reft_interp.runtime.activations import activations
from reft_interp.runtime.intervened import IntervenedModel
from reft_interp.runtime.placement import Placement

__all__ = ["IntervenedModel", "Placement", "activations"]
