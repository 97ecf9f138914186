"""Run a batch through the model with edits in place, and record what a run holds.

Every hook that is put on comes off again, whatever happens in between.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import IGNORED, TokenizedBatch
from reft_interp.models.consistency import difference, sample_tokens
from reft_interp.models.consistency import is_causal as attends_backwards
from reft_interp.positions import Positions
from reft_interp.runtime.placement import Edit
from reft_interp.sites import Site

_LAST_STREAM = "unembed.hook_in"
# So many tokens of the vocabulary, at most, show whether logits are what enters times a matrix,
# where their standard deviation is so large: a cap is 15 to 50.
_COMPARED = 256
_LARGE = 50.0
_scores_tokens: "WeakKeyDictionary[TransformerBridge, bool]" = WeakKeyDictionary()


def is_causal(model: TransformerBridge) -> bool:
    """Whether tokens see only what stands before them (decoders), or everything (encoders)."""
    # Encoders show it by their attention, diffusion models by their loss.
    return attends_backwards(model) and bool(model.adapter.supports_causal_loss)


def prompt_starts(batch: TokenizedBatch) -> Positions:
    """The first token of each prompt."""
    rows = torch.arange(len(batch), device=batch.input_ids.device)
    return Positions(rows, batch.prompt_start)


def prompt_ends(batch: TokenizedBatch) -> Positions:
    """The last token of each prompt."""
    rows = torch.arange(len(batch), device=batch.input_ids.device)
    return Positions(rows, batch.prompt_end - 1)


def answer_starts(model: TransformerBridge, batch: TokenizedBatch) -> Positions:
    """Where a model predicts the first token of each answer: a decoder at the end of the prompt;
    an encoder at the first mask, so that its batch has to be encoded with answers."""
    if is_causal(model):
        return prompt_ends(batch)
    rows = torch.arange(len(batch), device=batch.input_ids.device)
    return Positions(rows, (batch.labels != IGNORED).int().argmax(1))


def answer_positions(model: TransformerBridge, batch: TokenizedBatch) -> Positions:
    """Where a model predicts the answer tokens of a batch, in the order of their labels.

    A decoder predicts a token one column before it; an encoder in its own column, where
    `encode` puts a mask.
    """
    rows, columns = (batch.labels != IGNORED).nonzero(as_tuple=True)
    return Positions(rows, columns - 1 if is_causal(model) else columns)


@contextmanager
def hooked(
    model: TransformerBridge,
    edits: Sequence[Edit],
    others: Sequence[tuple[str, Callable[..., Any]]] = (),
) -> Iterator[None]:
    """Within it, every run of `model` on the edits' batch is edited, and passes other hooks.

    Edits at different sites happen in the order in which the model computes the sites; edits
    at one site in the order of `edits`, each on what the one before it left.
    """

    def at(edit: Edit):
        return edit.site.hook_name, lambda activation, hook: edit.apply(activation)

    with model.hooks(fwd_hooks=[*map(at, edits), *others]):
        yield


def run(
    model: TransformerBridge,
    batch: TokenizedBatch,
    edits: Sequence[Edit] = (),
    *,
    at: Positions | None = None,
    unembed: bool = True,
    **options: Any,
) -> Tensor:
    """Logits of a batch under edits.

    Args:
        model: the hooked model.
        batch: on the model's device.
        edits: what is done on the way; none for the untouched model.
        at: where the logits are wanted; the output layer runs only there.
        unembed: whether the output layer runs at all; without it (with `at`) the result is the
            last hidden state: of a decoder what enters its output layer, after the final norm, of
            an encoder what leaves its last block.
        options: of the bridge's forward, as `use_cache`.

    Returns:
        Logits of shape [batch, pos, vocab]; with `at`, [n, vocab], one row a position; without
        `unembed` [n, d_model].
    """
    if at is None:
        with hooked(model, edits):
            return _forward(model, batch, **options)
    entering: list[Tensor] = []
    if not is_causal(model) or _LAST_STREAM not in model.hook_dict:
        if unembed:
            with hooked(model, edits):
                return at.read(_forward(model, batch, **options))

        def keep_last(stream: Tensor, hook: Any) -> Tensor:
            entering.append(at.read(stream))
            return stream[:1, :1]  # its output layer runs on one token, and nobody looks

        last_block = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        with hooked(model, edits, [(last_block, keep_last)]):
            _forward(model, batch, **options)
        return entering[0]

    def keep(stream: Tensor, hook: Any) -> Tensor:
        entering.append(at.read(stream))
        return entering[0][None] if unembed else entering[0][None, :0]

    with hooked(model, edits, [(_LAST_STREAM, keep)]):
        logits = _forward(model, batch, **options)[0]
    return logits if unembed else entering[0]


def can_score_tokens(model: TransformerBridge) -> bool:
    """Whether the logits of a few tokens can be had without those of all others: where they are
    a matrix times what enters it, and nothing is done to them afterwards; measured once a model.
    A quantized matrix has no rows of its own."""
    if model not in _scores_tokens:
        _scores_tokens[model] = (
            is_causal(model)
            and _LAST_STREAM in model.hook_dict
            and type(model.unembed.original_component) is nn.Linear
            and _logits_are_products(model)
        )
    return _scores_tokens[model]


@torch.no_grad()
def _logits_are_products(model: TransformerBridge) -> bool:
    """Whether `token_logits` gives the model's own, also where they are large: a cap hardly shows
    on small ones."""
    tokens = sample_tokens(model)
    vocabulary = model.unembed.original_component.weight.shape[0]
    some = torch.arange(0, vocabulary, -(-vocabulary // _COMPARED), device=tokens.device)
    some = some.expand(tokens.shape[1], -1)
    entering: list[Tensor] = []

    def enlarge(stream: Tensor, hook: Any) -> Tensor:
        spread = token_logits(model, stream[0], some).std()
        entering.append(stream * (_LARGE / spread).to(stream))
        return entering[0]

    with hooked(model, [], [(_LAST_STREAM, enlarge)]):
        logits = model(tokens)[0].gather(1, some)
    found = token_logits(model, entering[0][0], some)
    # Of a model that is spread over devices, logits may lie on another one than what enters.
    return difference(model, found[None], logits[None].to(found.device)).ok


def logits_of_tokens(
    model: TransformerBridge,
    tokens: Int[Tensor, "n k"],
    result: Callable[[bool], Float[Tensor, "n out"]],
) -> Float[Tensor, "n k"]:
    """Logits of k tokens a row, from a run that is told whether the output layer runs."""
    if can_score_tokens(model):
        return token_logits(model, result(False), tokens)
    return result(True).gather(1, tokens)


def token_logits(
    model: TransformerBridge, entering: Float[Tensor, "n d"], tokens: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Logits of k tokens a row, from what enters the output layer (see `can_score_tokens`).

    They are at least float32, whatever the model's dtype is.
    """
    head = model.unembed.original_component
    assert isinstance(head, nn.Linear)  # can_score_tokens said so
    there = tokens.to(head.weight.device)
    # Half precision would round different logits to the same number.
    precise = torch.promote_types(head.weight.dtype, torch.float32)
    rows, stream = head.weight[there].to(precise), entering.to(there.device, precise)
    logits = (rows @ stream[:, :, None])[..., 0]
    if head.bias is not None:
        logits = logits + head.bias[there].to(precise)
    return logits.to(entering.device)


@torch.no_grad()
def record(
    model: TransformerBridge,
    batch: TokenizedBatch,
    at: Sequence[tuple[Site, Positions]],
    edits: Sequence[Edit] = (),
) -> list[Float[Tensor, "n d"]]:
    """What a run holds at the given sites and positions.

    A decoder stops after the highest site.

    Args:
        model: the hooked model.
        batch: on the model's device.
        at: what is recorded, after the edits at the same site.
        edits: what is done on the way; none for the untouched model.
    """
    held: dict[int, Tensor] = {}

    def reader(index: int, site: Site, positions: Positions):
        def read(activation: Tensor, hook: Any) -> None:
            held[index] = site.read(activation, positions)

        return site.hook_name, read

    hooks = [reader(i, site, positions) for i, (site, positions) in enumerate(at)]
    top = max(site.layer for site, _ in at) + 1
    stop = top if is_causal(model) and top < model.cfg.n_layers else None
    with hooked(model, edits, hooks):
        _forward(model, batch, stop_at_layer=stop)
    return [held[i] for i in range(len(at))]


def _forward(model: TransformerBridge, batch: TokenizedBatch, **options: Any) -> Tensor:
    if batch.token_type_ids is not None:
        options["token_type_ids"] = batch.token_type_ids
    return model(
        batch.input_ids, attention_mask=batch.attention_mask, return_type="logits", **options
    )
