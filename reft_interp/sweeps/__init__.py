"""Sweeps: many trainings in one folder, each on disk as soon as it is finished.

`sweep` is DAS over layers, tokens, ranks and seeds; `compare` is methods of finetuning on a suite,
and `ablations` one ReFT with its settings changed one by one, to be compared.
"""

from reft_interp.sweeps.ablations import ablations
from reft_interp.sweeps.compared_subspaces import compare_subspaces
from reft_interp.sweeps.comparing import compare
from reft_interp.sweeps.comparison import MethodComparison
from reft_interp.sweeps.comparison_run import Budget
from reft_interp.sweeps.das_sweep import Sweep, grid, sweep
from reft_interp.sweeps.subspace_comparison import SubspaceComparison

__all__ = [
    "Budget",
    "MethodComparison",
    "SubspaceComparison",
    "Sweep",
    "ablations",
    "compare",
    "compare_subspaces",
    "grid",
    "sweep",
]
