"""The weights of a plain copy that peft writes, cloned first: a copy's are the bridge's own.

peft writes base weights in three places: some of LoRA's initialisations take from a weight what
the adapter begins with, biases may be trained, and what was trained is read from a file.
"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Initialisations of LoRA that leave the weights which it adapts as they are.
_LEAVES_WEIGHTS = ("gaussian", "orthogonal", "eva")


def begins_in_weights(config: Any) -> bool:
    """Whether LoRA's initialisation may change the weights that are adapted, as OLoRA's does.

    Args:
        config: of peft's.
    """
    begins = getattr(config, "init_lora_weights", True)
    return isinstance(begins, str) and begins not in _LEAVES_WEIGHTS


def own(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Give parameters memory of their own, and return each with what it shared."""
    shared = []
    for parameter in parameters:
        shared.append((parameter, parameter.data))
        parameter.data = parameter.data.clone()
    return shared


def share_unchanged(shared: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Undo `own` where nothing was written, which frees the memory."""
    for parameter, before in shared:
        if torch.equal(parameter.data, before):
            parameter.data = before


def own_trained(adapted: nn.Module, before: Iterable[nn.Parameter]) -> None:
    """Clone the parameters that are trained and were there before peft, which are the bridge's.

    Args:
        adapted: a plain copy of the bridge's model in peft's.
        before: the parameters of the copy.
    """
    theirs = {id(weight) for weight in before}
    own(one for one in adapted.parameters() if one.requires_grad and id(one) in theirs)


def own_read(plain: nn.Module, folder: str | Path) -> None:
    """Clone the parameters that peft writes when it reads an adapter.

    Args:
        plain: a plain copy, before the adapter.
        folder: of peft's.
    """
    peft = import_module("peft")
    if begins_in_weights(peft.PeftConfig.from_pretrained(str(folder))):
        own(plain.parameters())
        return
    saved = import_module("peft.utils").load_peft_weights(str(folder), device="cpu")
    written = {
        name.removeprefix("base_model.model.").replace(".base_layer.", ".") for name in saved
    }
    named = dict(plain.named_parameters(remove_duplicate=False))
    # Tied weights have two names, and are cloned once, as one.
    own({id(named[name]): named[name] for name in written & named.keys()}.values())
