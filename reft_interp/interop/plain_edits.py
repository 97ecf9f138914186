"""Interventions in a plain transformers model, at the output of its blocks.

For what the bridge cannot hold, as peft's adapters; `runtime` places them in bridges, and runs
only what they can change.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.runtime.generation import EditWhileGenerating, cache_noted
from reft_interp.runtime.placement import Edit, Placement


def blocks_of(plain: nn.Module, bridge: TransformerBridge) -> nn.Module:
    """The blocks of a plain copy of the bridge's model, each a submodule by its number.

    Args:
        plain: the copy, or the base model in it, which is all but the output layer.
        bridge: says where blocks are.
    """
    name = str((bridge.adapter.component_mapping or {})["blocks"].name)
    if getattr(plain, "base_model", None) is plain:
        name = name.removeprefix(f"{plain.base_model_prefix}.")
    return plain.get_submodule(name)


def check_plain_placements(placements: Sequence[Placement]) -> None:
    """Raise unless all can be placed in a plain model.

    Raises:
        ValueError: a site that is no block's output, or an intervention that needs a source.
    """
    for placement in placements:
        if placement.site.component != "resid_post" or placement.intervention.needs_source:
            raise ValueError(
                "interventions in a plain model must edit resid_post and read no source, got "
                f"{placement}"
            )


@contextmanager
def edited(
    plain: nn.Module, bridge: TransformerBridge, batch: TokenizedBatch, placed: Sequence[Placement]
) -> Iterator[None]:
    """Within it, runs of `plain` on the batch are edited; those that go on with it are not.

    Args:
        plain: a plain copy of the bridge's model.
        bridge: says where blocks are.
        batch: what is run.
        placed: interventions as wide as the model.
    """
    blocks = blocks_of(plain, bridge)
    prompts, width = batch.input_ids.shape
    with cache_noted(plain) as cached, ExitStack() as stack:
        for placement in placed:
            edit = Edit(placement.intervention, placement.site, placement.on(batch))
            change = EditWhileGenerating(edit, prompts, width, every_token=False, cached=cached)
            block = blocks.get_submodule(str(placement.site.layer))
            stack.callback(block.register_forward_hook(_of_output(change)).remove)
        yield


def _of_output(change: EditWhileGenerating) -> Any:
    def hook(module: nn.Module, given: Any, output: Any) -> Any:
        # Blocks of some architectures give a tuple that begins with the stream.
        if isinstance(output, tuple):
            return (change(output[0], None), *output[1:])
        return change(output, None)

    return hook
