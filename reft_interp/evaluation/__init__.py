"""Scores with their uncertainty. Nothing here trains.

`predicting` finds what a model answers, `results` holds what was counted.
"""

from reft_interp.evaluation.controls import control_subspaces
from reft_interp.evaluation.predicting import (
    accuracy,
    answers_correctly,
    choice_scores,
    predict_choices,
)
from reft_interp.evaluation.results import Accuracy, Comparison
from reft_interp.evaluation.scoring import (
    prepared_accuracies,
    prepared_accuracy,
    prepared_choice_scores,
)

__all__ = [
    "Accuracy",
    "Comparison",
    "accuracy",
    "answers_correctly",
    "choice_scores",
    "control_subspaces",
    "predict_choices",
    "prepared_accuracies",
    "prepared_accuracy",
    "prepared_choice_scores",
]
