"""What a trained subspace encodes.

One question a file: what can be read in it (`linear`), which tokens it promotes (`tokens`), how
it lies to other subspaces (`geometry`), what it does (`effects`). `probe` asks them all,
`probe_each` of several interventions at once.
"""

from reft_interp.probing.probe import probe, probe_each
from reft_interp.probing.probe_report import ProbeReport

__all__ = ["ProbeReport", "probe", "probe_each"]
