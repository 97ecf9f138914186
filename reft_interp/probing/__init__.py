"""What a trained subspace encodes.

One question a file: what can be read in it (`linear`), which tokens it promotes (`tokens`), how
it lies to other subspaces (`geometry`), what it does (`effects`). `probe` asks them all.
"""

from reft_interp.probing.probe import ProbeReport, probe

__all__ = ["ProbeReport", "probe"]
