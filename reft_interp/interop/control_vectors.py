"""Steering for llama.cpp: shifts of every token as a GGUF control vector.

llama.cpp adds the tensor `direction.k` to what block k leaves in the residual stream, blocks
counted from 0 and tokens of prompt and answer alike (`build_cvec` in each model's graph; read in
llama.cpp's `llama-adapter.cpp` and `common.cpp`). It refuses k = 0, so the output of the first
block cannot be steered. Its conversion of weights reorders heads, but never the stream.
"""

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter
from torch import Tensor

from reft_interp.interop.fold import affine_map
from reft_interp.models import identify
from reft_interp.positions import every
from reft_interp.runtime import Placement
from reft_interp.runtime.trained import Trained, intervened_of
from reft_interp.whole_files import replacing


def save_control_vector(intervened: Trained, file: str | Path) -> None:
    """Write shifts by a constant as a file for llama.cpp's `--control-vector`.

    What llama.cpp then computes is what `generate(when="every token")` does here. Shifts of one
    layer become one direction, their sum.

    Args:
        intervened: LobiReFT, VectorAddition or another shift by a constant, also `scaled` or
            `interpolated`, on "every", at `resid_post` from layer 1 on or at `resid_pre` from
            layer 2 on; or a result that holds it.
        file: that is written, a `.gguf`.

    Raises:
        ValueError: an edit that is no shift or not on every token, or another place.
    """
    intervened = intervened_of(intervened, "intervened")
    directions: dict[int, Tensor] = {}
    for placement in intervened.placements:
        layer = _layer(placement)
        linear, shift = affine_map(placement.intervention)
        if linear is not None:
            raise ValueError(
                f"{placement}: a control vector is added, the same to every token, and what this "
                "edit adds depends on h. LobiReFT and VectorAddition can be written."
            )
        directions[layer] = directions.get(layer, torch.zeros_like(shift)) + shift
    config: Any = intervened.model.original_model.config
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside:
        writer = GGUFWriter(beside, "controlvector")
        # llama.cpp's own generator writes these; its loader reads the tensors alone.
        writer.add_string("controlvector.model_hint", str(config.model_type))
        writer.add_int32("controlvector.layer_count", len(directions))
        writer.add_description(f"made with reft_interp for {identify(intervened.model)}")
        for layer, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{layer}", direction.float().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _layer(placement: Placement) -> int:
    """The block whose output is shifted."""
    site = placement.site
    layer = {"resid_post": site.layer, "resid_pre": site.layer - 1}.get(site.component, 0)
    if layer < 1:
        raise ValueError(
            f"{placement}: llama.cpp adds control vectors to what leaves a block, the first block "
            "excepted: to 'resid_post' from layer 1 on, or 'resid_pre' from layer 2 on"
        )
    if placement.on != every():
        raise ValueError(f"{placement}: llama.cpp adds control vectors to 'every' token")
    return layer
