"""Gradient checkpointing: blocks that keep only what enters them, and run again for the gradient.

transformers' own switch does not reach here: the edits are hooks that are off again when the
backward pass begins, and without them a block would run again unedited.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.runtime.placement import Edit
from reft_interp.runtime.running import hooked
from reft_interp.runtime.shadowing import shadowed


@contextmanager
def recomputed(model: TransformerBridge, edits: Sequence[Edit]) -> Iterator[None]:
    """Within it, what a plain run of `model` computes inside its blocks is not kept.

    The run must not use a cache of keys and values: a block that runs again would append its own
    a second time.

    Args:
        model: the hooked model.
        edits: those of the run, which happen again when a block does.
    """
    with shadowed({block: _twice(model, block, edits) for block in model.blocks}):
        yield


def _twice(model: TransformerBridge, block: nn.Module, edits: Sequence[Edit]) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        again = False

        def body(stream: Tensor) -> Any:
            with hooked(model, edits) if again else nullcontext():
                return type(block).forward(block, stream, *args, **kwargs)

        result = checkpoint(body, hidden_states, use_reentrant=False)
        again = True
        return result

    return forward
