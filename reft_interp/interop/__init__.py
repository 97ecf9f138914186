"""What other libraries trained, and what others can run of ours.

In: `pyreft`, `pyreft_classifier` and `pyvene` read the folders of those two, `sae_lens` sae-lens's.
Out: `export` writes what a plain transformers model runs, `fold` puts into its weights what fits
there, `pyreft_saving` writes folders for pyreft, `control_vectors` files for llama.cpp.
Both ways: `hub`, the Hugging Face hub.
"""

from reft_interp.interop.control_vectors import save_control_vector
from reft_interp.interop.export import export_to_transformers
from reft_interp.interop.fold import fold_into_weights
from reft_interp.interop.hub import from_pretrained, push_to_hub
from reft_interp.interop.model_card import model_card
from reft_interp.interop.pyreft import load_pyreft
from reft_interp.interop.pyreft_classifier import load_pyreft_classifier
from reft_interp.interop.pyreft_saving import save_pyreft
from reft_interp.interop.pyvene import load_pyvene
from reft_interp.interop.sae_lens import load_sae

__all__ = [
    "export_to_transformers",
    "fold_into_weights",
    "from_pretrained",
    "load_pyreft",
    "load_pyreft_classifier",
    "load_pyvene",
    "load_sae",
    "model_card",
    "push_to_hub",
    "save_control_vector",
    "save_pyreft",
]
