"""pyvene's names for places in a model, and the sites that are the very same."""

import re

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.pyvene_folder import SavedIntervention
from reft_interp.models import identify
from reft_interp.sites import Site

# pyvene's names for places in a model, and the hook at which our site has to be the very same.
COMPONENTS = {
    "block_input": "resid_pre",
    "block_output": "resid_post",
    "attention_output": "attn_out",
    "mlp_output": "mlp_out",
    "attention_value_output": "z",
}
_SAME_HOOK = {"attn_out": "attn.hook_out", "mlp_out": "mlp.hook_out"}
# A module's path instead of a name, as in "model.layers[8].output".
_PATH = re.compile(r"([\w.]+)\[(\d+)\]\.([\w.]+)")
_PEFTS = "base_model.model."  # before all of a model that peft has wrapped
_INSIDE = {
    "input": "block_input",
    "output": "block_output",
    "self_attn.output": "attention_output",
    "attn.output": "attention_output",
    "attention.output": "attention_output",
    "mlp.output": "mlp_output",
    "self_attn.o_proj.input": "attention_value_output",
}


def site_of(entry: SavedIntervention, model: TransformerBridge) -> Site:
    """Where in a model a saved intervention is.

    Raises:
        ValueError: a component that is not known, or that the model does not have.
    """
    layer, component = entry.layer, entry.component
    blocks = str((model.adapter.component_mapping or {})["blocks"].name)
    path = _PATH.fullmatch(component)
    if path and _is_end(path[1].removeprefix(_PEFTS), blocks):
        layer, component = int(path[2]), _INSIDE.get(path[3], component)
    if component not in COMPONENTS:
        raise ValueError(
            f"cannot place an intervention at {entry.component!r}; the known components are "
            f"{', '.join(COMPONENTS)}, and paths of the same modules of {identify(model).name}, as "
            f"in '{blocks}[1].output'"
        )
    site = Site(COMPONENTS[component], layer)
    try:
        site.check(model)
    except ValueError as error:
        raise ValueError(f"the folder was made for another model: {error}") from None
    if not is_same_place(model, site):
        raise ValueError(
            f"cannot place an intervention at {entry.component!r} of {identify(model).name}: "
            f"it edits what the sublayer gives, but {site} is what is added to the "
            "residual stream, and on this architecture the two differ"
        )
    return site


def _is_end(written: str, name: str) -> bool:
    """Whether a path is a module's, or what is left of it in a part of the model: an encoder of
    images has layers too. LLaVA's were once in `language_model.model`, now in the reverse."""
    reordered = sorted(written.split(".")) == sorted(name.split("."))
    return f".{name}".endswith(f".{written}") or reordered


def is_same_place(model: TransformerBridge, site: Site) -> bool:
    """Whether what is added to the residual stream at a site is what the sublayer itself gives.

    Gemma 2 norms that before it is added, and others scale it.
    """
    same = _SAME_HOOK.get(site.component)
    hooks = model.hook_dict
    return same is None or hooks[site.hook_name] is hooks.get(f"blocks.{site.layer}.{same}")
