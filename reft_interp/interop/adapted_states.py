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
from reft_interp.interop.plain_edits import blocks_of, edited
from reft_interp.interop.plain_finetuning import REFT_FOLDER, copy_to_train, token_types
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import by_length, encode
from reft_interp.runtime.running import is_causal, prompt_ends, prompt_starts
from reft_interp.training.labelled_rows import texts_of


@torch.no_grad()
def adapted_states(
    model: TransformerBridge,
    adapter: str | Path | None,
    rows: Sequence[Mapping[str, Any]],
    layers: Sequence[int],
    *,
    batch_size: int = 32,
) -> dict[int, Float[Tensor, "rows d"]]:
    """The residual stream after each of some blocks, at each prompt's last token; at its first one
    in an encoder, where heads read.

    Args:
        model: the bridge, without adapters.
        adapter: a folder of peft's, with the interventions in its folder `reft` where there are
            some; None for the model as it is.
        rows: with `prompt`; an encoder reads their raw texts where they have them.
        layers: which blocks.
        batch_size: prompts run at once.

    Raises:
        ValueError: pairs of texts that an encoder tells apart by token types, which peft leaves
            out where it puts learned prompts before a text.
    """
    base: nn.Module = copy_to_train(model)
    plain = base
    blocks = blocks_of(base, model)
    placements = ()
    if adapter is not None:
        from peft import PeftModel

        plain = PeftModel.from_pretrained(base, str(adapter)).eval()  # pyright: ignore[reportArgumentType]
        if (beside := Path(adapter) / REFT_FOLDER).is_dir():
            placements = IntervenedModel.load(beside, model).placements
    held: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            held[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    found: dict[int, Tensor] = {}
    texts = texts_of(model, rows)
    for group in by_length(texts, batch_size):
        batch = encode(model, [texts[i] for i in group])
        with ExitStack() as stack:
            stack.enter_context(edited(base, model, batch, placements))
            for layer in layers:  # after the edits, whose hooks came first
                block = blocks.get_submodule(str(layer))
                stack.callback(block.register_forward_hook(keep(layer)).remove)
            plain(**_inputs(batch, plain, model))
        read = (prompt_ends if is_causal(model) else prompt_starts)(batch)
        for layer in layers:
            # Prompts that peft learns stand before the tokens.
            before = held[layer].shape[1] - batch.input_ids.shape[1]
            states = read.read(held[layer][:, before:]).float().cpu()
            found.setdefault(layer, torch.empty(len(rows), states.shape[-1]))[group] = states
    return found


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
