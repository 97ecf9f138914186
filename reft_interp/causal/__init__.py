"""Causal variables, the counterfactuals they imply, and the search for where a model keeps them."""

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.das import DASResult, fit_das
from reft_interp.causal.das_cells import DASCell, fit_das_each
from reft_interp.causal.interchanges import (
    PreparedPairs,
    interchange_accuracies,
    interchange_accuracy,
    interchange_rows,
)
from reft_interp.causal.patching import Patching, activation_patching

__all__ = [
    "Counterfactuals",
    "DASCell",
    "DASResult",
    "Patching",
    "PreparedPairs",
    "activation_patching",
    "fit_das",
    "fit_das_each",
    "interchange_accuracies",
    "interchange_accuracy",
    "interchange_rows",
]
