"""Scores with their uncertainty. Nothing here trains.

`predicting` finds what a model answers, `choices` has what it may choose from, `results` holds
what was counted.
"""

from reft_interp.evaluation.controls import control_subspaces
from reft_interp.evaluation.predicting import (
    accuracy,
    answer_log_probabilities,
    answers_correctly,
    choice_scores,
    divergences,
    named_metric,
    predict_choices,
)
from reft_interp.evaluation.results import (
    Accuracy,
    Comparison,
    mean_and_interval,
    paired_difference,
)
from reft_interp.evaluation.scoring import (
    prepared_accuracies,
    prepared_accuracy,
    prepared_choice_scores,
    prepared_correct,
)

__all__ = [
    "Accuracy",
    "Comparison",
    "accuracy",
    "answer_log_probabilities",
    "answers_correctly",
    "choice_scores",
    "control_subspaces",
    "divergences",
    "mean_and_interval",
    "named_metric",
    "paired_difference",
    "predict_choices",
    "prepared_accuracies",
    "prepared_accuracy",
    "prepared_choice_scores",
    "prepared_correct",
]
