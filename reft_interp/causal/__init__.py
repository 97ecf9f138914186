"""Causal variables, the counterfactuals they imply, and the search for where a model keeps them."""

from reft_interp.causal.attribution import Attribution, attribution_patching
from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.das import DASResult, fit_das
from reft_interp.causal.das_cells import DASCell, fit_das_each
from reft_interp.causal.disentanglement import Disentanglement, disentanglement
from reft_interp.causal.effects import Effects, effects, log_odds_ratios
from reft_interp.causal.evidence import Evidence
from reft_interp.causal.gathering import gather_evidence
from reft_interp.causal.interchanges import (
    PreparedPairs,
    interchange_accuracies,
    interchange_accuracy,
    interchange_rows,
)
from reft_interp.causal.joint_das import JointDASResult, fit_das_jointly
from reft_interp.causal.joint_evidence import JointEvidence
from reft_interp.causal.joint_gathering import gather_joint_evidence
from reft_interp.causal.method_comparison import compare_methods
from reft_interp.causal.methods import (
    DAS,
    BoundlessDAS,
    FullVector,
    MaskSearch,
    Method,
    NonlinearAlignment,
    RandomSubspace,
)
from reft_interp.causal.mib import MIBScores, mib_scores
from reft_interp.causal.model import CausalModel
from reft_interp.causal.patching import Patching, activation_patching
from reft_interp.causal.readable_split import readable_split
from reft_interp.causal.reading_methods import (
    PCA,
    DifferenceOfMeans,
    LinearDiscriminant,
    LogisticProbe,
)
from reft_interp.causal.screening import screen_cells

__all__ = [
    "DAS",
    "PCA",
    "Attribution",
    "BoundlessDAS",
    "CausalModel",
    "Counterfactuals",
    "DASCell",
    "DASResult",
    "DifferenceOfMeans",
    "Disentanglement",
    "Effects",
    "Evidence",
    "FullVector",
    "JointDASResult",
    "JointEvidence",
    "LinearDiscriminant",
    "LogisticProbe",
    "MIBScores",
    "MaskSearch",
    "Method",
    "NonlinearAlignment",
    "Patching",
    "PreparedPairs",
    "RandomSubspace",
    "activation_patching",
    "attribution_patching",
    "compare_methods",
    "disentanglement",
    "effects",
    "fit_das",
    "fit_das_each",
    "fit_das_jointly",
    "gather_evidence",
    "gather_joint_evidence",
    "interchange_accuracies",
    "interchange_accuracy",
    "interchange_rows",
    "log_odds_ratios",
    "mib_scores",
    "readable_split",
    "screen_cells",
]
