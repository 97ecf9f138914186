"""A frozen model whose blocks are cut up over several processes (FSDP), each holding its share.

A block is whole only while it runs. So all processes must run the same blocks equally often, if on
other rows: that is what `is_sharded` tells those who plan what runs.
"""

import os
from typing import cast

import torch
from accelerate import PartialState
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformer_lens.model_bridge import TransformerBridge


def launched_processes() -> int:
    """How many processes torchrun or `accelerate launch` started together, this one among them."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_launched() -> None:
    """Raise where there are no processes to share a model.

    Raises:
        ValueError: this process was launched alone.
    """
    if launched_processes() < 2:
        raise ValueError(
            "sharded=True needs several processes that share the model: launch the script with "
            "`torchrun --nproc-per-node=2` or `accelerate launch --multi_gpu`, got a single one"
        )


def shard_blocks(model: TransformerBridge, device: torch.device) -> None:
    """Keep of each block this process' share alone; embedding, last norm and head stay whole.

    torch's `fully_shard` (Zhao et al. 2023, arXiv:2304.11277).

    Args:
        model: the whole model, on the CPU.
        device: of this process, where its share and the rest go.
    """
    PartialState(cpu=device.type == "cpu")
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in _wrapped_blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    model.original_model.to(device)  # pyright: ignore[reportArgumentType, reportCallIssue]
    model.cfg.device = str(device)


def is_sharded(model: TransformerBridge) -> bool:
    """Whether `shard_blocks` cut it up."""
    return any(isinstance(block, FSDPModule) for block in _wrapped_blocks(model))


def sharded_parameters(model: TransformerBridge) -> set[nn.Parameter]:
    """Those of which this process has a share."""
    blocks = [block for block in _wrapped_blocks(model) if isinstance(block, FSDPModule)]
    return {parameter for block in blocks for parameter in cast("nn.Module", block).parameters()}


def least_of_all(number: int, device: torch.device) -> int:
    """The least of the numbers that all processes have.

    Args:
        number: of this one.
        device: of this one.
    """
    least = torch.tensor(number, device=device)
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    return int(least)


def _wrapped_blocks(model: TransformerBridge) -> list[nn.Module]:
    # Not the bridge's blocks: a replay passes those over that it does not run.
    blocks = getattr(model, "blocks", None) or []
    return [cast("nn.Module", block.original_component) for block in blocks]
