"""What a plain model holds at the outputs of its blocks, with or without what was trained on it:
peft's adapters, and the interventions that were trained together with them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.interop.peft_weights import own_read
from reft_interp.interop.plain_edits import blocks_of, edited
from reft_interp.interop.plain_finetuning import REFT_FOLDER, copy_to_train, token_types
from reft_interp.positions import Positions, PositionSelector
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import by_length, encode
from reft_interp.runtime.running import is_causal, prompt_starts
from reft_interp.training.labelled_rows import texts_of

Place = tuple[int, PositionSelector]
"""The number of a block, and which tokens."""


@torch.no_grad()
def adapted_states(
    model: TransformerBridge,
    adapter: str | Path | None,
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[Place],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
) -> dict[Place, Float[Tensor, "rows d"]]:
    """The residual stream after some blocks, at the last of the selected tokens of each row; in an
    encoder at the first token, whatever is selected, as heads read there.

    Args:
        model: the bridge, without adapters.
        adapter: a folder of peft's, with the interventions in its folder `reft` where there are
            some; None for the model as it is.
        rows: with `prompt`; an encoder reads their raw texts where they have them.
        places: numbers of blocks, each with what selects tokens.
        batch_size: prompts run at once.
        max_length: tokens after which the tokenizer cuts a prompt.

    Returns:
        At each place a vector a row; zeros in a row in which nothing is selected.

    Raises:
        ValueError: pairs of texts that an encoder tells apart by token types, which peft leaves
            out where it puts learned prompts before a text.
    """
    base: nn.Module = copy_to_train(model)
    plain = base
    blocks = blocks_of(base, model)
    placements = ()
    layers = sorted({layer for layer, _ in places})
    if adapter is not None:
        from peft import PeftModel

        own_read(base, adapter)
        plain = PeftModel.from_pretrained(base, str(adapter)).eval()  # pyright: ignore[reportArgumentType]
        if (beside := Path(adapter) / REFT_FOLDER).is_dir():
            placements = IntervenedModel.load(beside, model).placements
    held: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            held[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    found: dict[Place, Tensor] = {}
    texts = texts_of(model, rows)
    for group in by_length(texts, batch_size):
        batch = encode(model, [texts[i] for i in group], max_length=max_length)
        with ExitStack() as stack:
            stack.enter_context(edited(base, model, batch, placements))
            for layer in layers:  # after the edits, whose hooks came first
                block = blocks.get_submodule(str(layer))
                stack.callback(block.register_forward_hook(keep(layer)).remove)
            plain(**_inputs(batch, plain, model))
        for layer, on in places:
            at = _last_of(on, batch) if is_causal(model) else prompt_starts(batch)
            # Prompts that peft learns stand before the tokens.
            before = held[layer].shape[1] - batch.input_ids.shape[1]
            states = at.read(held[layer][:, before:]).float().cpu()
            every = found.setdefault((layer, on), torch.zeros(len(rows), states.shape[-1]))
            every[torch.tensor(group)[at.rows.cpu()]] = states
    return found


def _last_of(on: PositionSelector, batch: TokenizedBatch) -> Positions:
    columns = on(batch).split(len(batch))
    last = [of_row[-1:].tolist() for of_row in columns]
    return Positions.of(last, device=batch.input_ids.device)


def _inputs(batch: TokenizedBatch, plain: nn.Module, model: TransformerBridge) -> dict[str, Any]:
    given: dict[str, Any] = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
    }
    if is_causal(model):
        return given | {"use_cache": False}
    configs: Any = getattr(plain, "peft_config", {})
    learns = any(config.is_prompt_learning for config in configs.values())
    return given | token_types(batch, model, dropped=learns)
