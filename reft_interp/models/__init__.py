"""Hooked models: load one, ask what works on it, ask what it is.

`loading` turns a name into a frozen bridge, `embedded` is the small model that installs like a
package, `checking` finds out which sites and which shortcuts can be trusted, `environment` is
the same for the whole installation. Not here: interventions, and anything that edits a model.
"""

from .checking import ModelCheck, SiteCheck, check
from .consistency import Difference
from .environment import Diagnosis, doctor
from .identity import ModelIdentity, fingerprint, identify
from .loading import load_model, wrap_model
from .untrained import untrained_copy

__all__ = [
    "Diagnosis",
    "Difference",
    "ModelCheck",
    "ModelIdentity",
    "SiteCheck",
    "check",
    "doctor",
    "fingerprint",
    "identify",
    "load_model",
    "untrained_copy",
    "wrap_model",
]
