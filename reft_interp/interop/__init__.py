"""What other libraries trained. `pyreft` reads pyreft's folders, `sae_lens` sae-lens's."""

from reft_interp.interop.pyreft import load_pyreft
from reft_interp.interop.sae_lens import load_sae

__all__ = ["load_pyreft", "load_sae"]
