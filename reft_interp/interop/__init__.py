"""Interventions that other libraries trained. `pyreft` reads pyreft's folders."""

from reft_interp.interop.pyreft import load_pyreft

__all__ = ["load_pyreft"]
