"""Tasks: where the data that interventions are trained and tested on comes from.

One file a task. A causal task makes `Counterfactuals` (`NumberAgreement`, any `CausalTask`), a
labelled one is a `LabelledTask` (`number_naming`, `sst2`). `plantings` are models whose truth is
known. Tasks know no interventions.
"""

from reft_interp.tasks.blimp import blimp
from reft_interp.tasks.causal_task import CausalTask, Prompt
from reft_interp.tasks.causalgym import CausalGymTask, causalgym
from reft_interp.tasks.hierarchical_equality import (
    first_object_hypothesis,
    hierarchical_equality,
    train_equality_model,
)
from reft_interp.tasks.indirect_object import indirect_object
from reft_interp.tasks.labelled import LabelledTask
from reft_interp.tasks.number_agreement import NumberAgreement
from reft_interp.tasks.number_naming import number_naming
from reft_interp.tasks.planted import Planting, plantings
from reft_interp.tasks.pronouns import pronoun_gender
from reft_interp.tasks.ravel import RAVEL, ravel
from reft_interp.tasks.ravel_knowledge import RAVELKnowledge, ravel_knowledge
from reft_interp.tasks.sst2 import sst2

__all__ = [
    "RAVEL",
    "CausalGymTask",
    "CausalTask",
    "LabelledTask",
    "NumberAgreement",
    "Planting",
    "Prompt",
    "RAVELKnowledge",
    "blimp",
    "causalgym",
    "first_object_hypothesis",
    "hierarchical_equality",
    "indirect_object",
    "number_naming",
    "plantings",
    "pronoun_gender",
    "ravel",
    "ravel_knowledge",
    "sst2",
    "train_equality_model",
]
