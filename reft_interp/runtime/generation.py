"""Continue prompts while interventions edit them: on the prompt only, or on each new token too.

The loop, sampling and stopping are transformers' own `generate`, which runs through the
bridge's hooks.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from reft_interp.encoding import TokenizedBatch
from reft_interp.positions import Positions
from reft_interp.runtime.attention import grouped
from reft_interp.runtime.placement import Edit

When = Literal["prompt", "every token"]


@torch.no_grad()
def generate(
    model: TransformerBridge,
    batch: TokenizedBatch,
    edits: Sequence[Edit],
    *,
    when: When = "prompt",
    **options: Any,
) -> list[str]:
    """Continuations of a left-padded batch.

    Args:
        model: the hooked model.
        batch: prompts, padded on the left.
        edits: what is done on the prompt, and with `when="every token"` on each new token.
        when: "prompt" edits the prompt's positions once, as LoReFT is trained and used in the
            paper; "every token" edits them and then, in the rows that they are in, each token that
            was generated.
        options: of transformers' `generate`: `max_new_tokens`, `do_sample`, `temperature`, ...

    Returns:
        The new text of each prompt, without special tokens.
    """
    prompts, width = batch.input_ids.shape
    hooks = [
        (
            edit.site.hook_name,
            EditWhileGenerating(edit, prompts, width, every_token=when == "every token"),
        )
        for edit in edits
    ]
    with grouped(model), model.hooks(fwd_hooks=hooks):
        return continuations(model.original_model, model.tokenizer, batch, **options)


@torch.no_grad()
def continuations(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch: TokenizedBatch, **options: Any
) -> list[str]:
    """What transformers' `generate` adds to a left-padded batch.

    Args:
        model: transformers' own, or a wrapper with its `generate`.
        tokenizer: of the model.
        batch: prompts, padded on the left.
        options: of `generate`.

    Returns:
        The new text of each prompt, without special tokens.
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad = next(token for token in known if token is not None)
    tokens = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        **({"pad_token_id": pad} | options),
    )
    new = tokens[:, batch.input_ids.shape[1] :]
    return tokenizer.batch_decode(new, skip_special_tokens=True)


class EditWhileGenerating:
    """A hook that edits the prompt when the model reads it, and new tokens where asked for."""

    def __init__(self, edit: Edit, prompts: int, width: int, *, every_token: bool):
        self.edit = edit
        self.prompts = prompts
        self.width = width
        self.every_token = every_token
        self.prompt_was_read = False

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        columns = activation.shape[1]
        # With a key-value cache the prompt passes once and then one token at a time; without,
        # everything passes each time. A prompt of one token looks like a new token but for
        # being the first.
        if columns > self.width or not self.prompt_was_read:
            self.prompt_was_read = True
            activation = self._repeated(len(activation) // self.prompts).apply(activation)
            new = range(self.width, columns)
        else:
            new = range(columns)
        if self.every_token and new:
            activation = self._on_columns(new, activation)
        return activation

    def _repeated(self, copies: int) -> Edit:
        """The edit where generation runs each prompt several times, one copy after the other."""
        positions, source = self.edit.positions, self.edit.source
        if copies > 1:
            offsets = torch.arange(copies, device=positions.rows.device)
            positions = Positions(
                (positions.rows[:, None] * copies + offsets).flatten(),
                positions.columns.repeat_interleave(copies),
            )
            source = None if source is None else source.repeat_interleave(copies, dim=0)
        return Edit(self.edit.intervention, self.edit.site, positions, source)

    def _on_columns(self, columns: range, activation: Tensor) -> Tensor:
        # Only where the prompt is edited: a row may ask for none of this.
        rows = self._repeated(len(activation) // self.prompts).positions.rows.unique()
        at = torch.tensor(list(columns), device=activation.device)
        selected = Positions(rows.repeat_interleave(len(at)), at.repeat(len(rows)))
        return Edit(self.edit.intervention, self.edit.site, selected).apply(activation)
