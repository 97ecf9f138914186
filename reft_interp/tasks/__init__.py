"""Tasks: where the data that interventions are trained and tested on comes from.

One file a task. A causal task makes `Counterfactuals` (`NumberAgreement`, any `CausalTask`), a
labelled one is a `LabelledTask` (`number_naming`, `sst2`). `suites` has those that methods are
compared on. `plantings` are models whose truth is known. Tasks know no interventions.
"""

from reft_interp.tasks import suites
from reft_interp.tasks.animacy import animacy
from reft_interp.tasks.blimp import blimp
from reft_interp.tasks.causal_task import CausalTask, Prompt
from reft_interp.tasks.causalgym import CausalGymTask, causalgym
from reft_interp.tasks.greater_than import greater_than
from reft_interp.tasks.hierarchical_equality import (
    first_object_hypothesis,
    hierarchical_equality,
    train_equality_model,
)
from reft_interp.tasks.hypotheses import kept_input_hypothesis
from reft_interp.tasks.indirect_object import indirect_object
from reft_interp.tasks.labelled import LabelledTask
from reft_interp.tasks.multiple_choice import multiple_choice
from reft_interp.tasks.number_agreement import NumberAgreement
from reft_interp.tasks.number_naming import number_naming
from reft_interp.tasks.own_rows import read_rows
from reft_interp.tasks.planted import Planting, plantings
from reft_interp.tasks.price_tagging import price_midpoint_hypothesis, price_tagging
from reft_interp.tasks.pronouns import pronoun_gender
from reft_interp.tasks.ravel import RAVEL, ravel
from reft_interp.tasks.ravel_knowledge import RAVELKnowledge, ravel_knowledge
from reft_interp.tasks.small_models import train_small_model
from reft_interp.tasks.sst2 import sst2
from reft_interp.tasks.two_digit_addition import two_digit_addition

__all__ = [
    "RAVEL",
    "CausalGymTask",
    "CausalTask",
    "LabelledTask",
    "NumberAgreement",
    "Planting",
    "Prompt",
    "RAVELKnowledge",
    "animacy",
    "blimp",
    "causalgym",
    "first_object_hypothesis",
    "greater_than",
    "hierarchical_equality",
    "indirect_object",
    "kept_input_hypothesis",
    "multiple_choice",
    "number_naming",
    "plantings",
    "price_midpoint_hypothesis",
    "price_tagging",
    "pronoun_gender",
    "ravel",
    "ravel_knowledge",
    "read_rows",
    "sst2",
    "suites",
    "train_equality_model",
    "train_small_model",
    "two_digit_addition",
]
