"""Continue prompts while interventions edit them: on the prompt only, or on each new token too.

The loop, sampling and stopping are transformers' own `generate`, which runs through the
bridge's hooks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from reft_interp.continuing import continuation_texts
from reft_interp.encoding import TokenizedBatch
from reft_interp.positions import Positions
from reft_interp.runtime.attention import grouped
from reft_interp.runtime.context import check_room
from reft_interp.runtime.placement import Edit

When = Literal["prompt", "every token"]

# What models are given from one pass to the next; recurrent ones call it otherwise.
_CACHES = ("past_key_values", "cache_params", "state")


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
        The new text of each prompt, without special tokens; its leading blank is kept, also
        where the tokenizer alone would drop it (Llama 2's).

    Raises:
        ValueError: more new tokens than the model has learned positions for.
    """
    check_room(model, batch, options.get("max_new_tokens"))
    prompts, width = batch.input_ids.shape
    every_token = when == "every token"
    with grouped(model), cache_noted(model.original_model) as cached:
        hooks = [
            (
                edit.site.hook_name,
                EditWhileGenerating(edit, prompts, width, every_token=every_token, cached=cached),
            )
            for edit in edits
        ]
        with model.hooks(fwd_hooks=hooks):
            return continuations(model.original_model, model.tokenizer, batch, **options)


@contextmanager
def cache_noted(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Within it, what it gives says whether the pass that runs was given a cache."""
    given = [False]

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given[0] = any(kwargs.get(name) is not None for name in _CACHES)

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lambda: given[0]
    finally:
        handle.remove()


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
        The new text of each prompt, without special tokens; its leading blank is kept, also
        where the tokenizer alone would drop it (Llama 2's).
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad = next(token for token in known if token is not None)
    tokens = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        **({"pad_token_id": pad} | options),
    )
    new = tokens[:, batch.input_ids.shape[1] :]
    return continuation_texts(tokenizer, new.tolist())


class EditWhileGenerating:
    """A hook that edits the prompt when the model reads it, and new tokens where asked for.

    Args:
        edit: on the prompt.
        prompts: how many there are.
        width: how many columns they take.
        every_token: whether new tokens are edited, too.
        cached: whether the pass that runs was given a cache, as `cache_noted` gives it.
    """

    def __init__(
        self,
        edit: Edit,
        prompts: int,
        width: int,
        *,
        every_token: bool,
        cached: Callable[[], bool],
    ):
        self.edit = edit
        self.prompts = prompts
        self.width = width
        self.every_token = every_token
        self.cached = cached
        self.read = 0
        """Columns that earlier passes read, or more: candidates that were dropped count too."""

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        columns = activation.shape[1]
        # With a cache each token passes once: the prompt at once or in parts, then one token or
        # several candidates. Without, everything passes each time.
        past = self.read if self.cached() else 0
        self.read = past + columns
        if past < self.width:
            activation = self._on_prompt(past, activation)
        new = range(max(self.width - past, 0), columns)
        if self.every_token and new:
            activation = self._on_columns(new, activation)
        return activation

    def _on_prompt(self, past: int, activation: Tensor) -> Tensor:
        """The edit of those of its tokens that are in this pass."""
        edit = self._repeated(len(activation) // self.prompts)
        columns = edit.positions.columns - past
        here = (columns >= 0) & (columns < activation.shape[1])
        if not here.any():
            return activation
        source = None if edit.source is None else edit.source[here]
        positions = Positions(edit.positions.rows[here], columns[here])
        return Edit(edit.intervention, edit.site, positions, source).apply(activation)

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
