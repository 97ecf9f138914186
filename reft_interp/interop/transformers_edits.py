"""Edits of a transformers model that were trained with reft_interp and run without it.

This file stands beside `edits.json` (what is done, where, on which tokens) and
`edits.safetensors` (with which numbers), and needs torch, safetensors and transformers alone:

    import edits  # with the folder on sys.path

    model = AutoModelForCausalLM.from_pretrained(...)
    tokenizer = AutoTokenizer.from_pretrained(..., padding_side="left")
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    with edits.attach(model):
        logits = model(**inputs).logits
        tokens = model.generate(**inputs)

`attach` without `with` leaves the edits on until `remove()`.
"""

import functools
import inspect
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

FORMAT = 1
When = Literal["prompt", "every token"]


class Edit(nn.Module):
    """h ← h + Dᵀv ("add") or h ← h + Dᵀ(v − Dh) ("set"), v = f(Wh + b) − c or a constant.

    Args:
        settings: the entry of `edits.json`.
        tensors: D as "rows" [r, d]; W as "weight" [r, d], b as "bias" [r] and perhaps c as
            "offset" [r]; or the constant v as "constant" [r].
    """

    rows: Tensor
    weight: Tensor
    bias: Tensor
    offset: Tensor | None
    constant: Tensor | None

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor]):
        super().__init__()
        self.settings = settings
        self.sets = settings["verb"] == "set"
        self.function = ACT2FN[settings.get("activation", "linear")]
        for name in ("rows", "weight", "bias", "offset", "constant"):
            self.register_buffer(name, tensors.get(name))

    def forward(self, h: Tensor) -> Tensor:
        """The edited activations of some tokens, [n, d]."""
        # Computed in the precision of what was trained, and rounded once.
        work = torch.promote_types(h.dtype, self.rows.dtype)
        x, rows = h.to(work), self.rows.to(work)
        if self.constant is None:
            v = self.function(x @ self.weight.to(work).T + self.bias.to(work))
            v = v if self.offset is None else v - self.offset.to(work)
        else:
            v = self.constant.to(work).expand(*x.shape[:-1], -1)
        if self.sets:
            v = v - x @ rows.T
        return (x + v @ rows).to(h.dtype)


class Attached:
    """Edits that are on a model, until `remove()` or the end of a `with`.

    A call without a key-value cache reads prompts: all tokens that the attention mask names. In
    `generate`, and in calls that go on from a cache, the prompt stays what it was, and what comes
    after it are new tokens.
    """

    prompt_lengths: list[int] | None = None
    """How many tokens of each row are prompt, where rows hold answers too (not for `generate`)."""

    def __init__(self, model: PreTrainedModel, edits: list[Edit], when: When):
        self._model = model
        self._when = when
        self._mask = torch.ones(0, 0)
        self._past = self._prompt_width = self._seen = 0
        self._generating = False
        self._places: dict[str, tuple[list[int], list[int]]] = {}
        names = inspect.signature(model.forward)
        self._handles = [
            model.register_forward_pre_hook(
                lambda _, args, kwargs: self._begin(names.bind_partial(*args, **kwargs).arguments),
                with_kwargs=True,
            ),
            *(self._place(model, edit) for edit in edits),
        ]
        self._generate = getattr(model, "generate", None)
        if self._generate is not None:
            model.generate = self._wrapped(self._generate)

    def __enter__(self) -> "Attached":
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the edits off again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._model.__dict__.pop("generate", None)

    def _wrapped(self, generate: Any) -> Any:
        @functools.wraps(generate)
        def edited_generate(*args: Any, **kwargs: Any) -> Any:
            names = ("inputs", "input_ids", "inputs_embeds")
            given = [*args[:1], *(kwargs.get(name) for name in names)]
            prompts = next((one for one in given if isinstance(one, Tensor)), None)
            self._generating, self._seen = True, 0
            self._prompt_width = 1 if prompts is None else prompts.shape[1]
            try:
                return generate(*args, **kwargs)
            finally:
                self._generating = False

        return edited_generate

    def _begin(self, given: dict[str, Any]) -> None:
        """What a call of the model reads: which columns, and which of them are prompt."""
        tokens = given.get("input_ids")
        tokens = given["inputs_embeds"] if tokens is None else tokens
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        rows, width = tokens.shape[:2]
        if mask is not None and mask.ndim != 2:
            raise ValueError(
                f"attention_mask must be [batch, pos], to say which tokens are padding, got shape "
                f"{tuple(mask.shape)}; generate makes another with a static cache"
            )
        if mask is not None:
            past = mask.shape[1] - width
        else:
            past = 0 if cache is None else int(cache.get_seq_length())
            mask = torch.ones(rows, past + width)
        if past > self._seen:
            raise ValueError(
                f"the key-value cache holds {past} tokens, of which {past - self._seen} were read "
                "without these edits: attach them first, and begin with an empty cache"
            )
        if past == 0 and not self._generating:
            self._prompt_width = width
        self._mask, self._past, self._seen = mask, past, past + width
        self._places = {}

    def _place(self, model: PreTrainedModel, edit: Edit) -> Any:
        module = model.get_submodule(edit.settings["module"])

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple):
                return (self._edited(edit, output[0]), *output[1:])
            return self._edited(edit, output)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (self._edited(edit, args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": self._edited(edit, kwargs["hidden_states"])}

        if edit.settings["at"] == "output":
            return module.register_forward_hook(after)
        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _edited(self, edit: Edit, activation: Tensor) -> Tensor:
        """The activation [batch, pos, d] of a module, or [batch * pos, d], edited."""
        if activation.ndim == 2:  # OPT's from before its MLP on
            by_row = activation.view(len(self._mask), -1, activation.shape[1])
            return self._edited(edit, by_row).view(activation.shape)
        key = json.dumps(edit.settings["positions"])
        if key not in self._places:
            self._places[key] = self._tokens(edit.settings["positions"])
        rows, columns = self._places[key]
        if not rows:
            return activation
        edit.to(activation.device)
        at = (
            torch.tensor(rows, device=activation.device),
            torch.tensor(columns, device=activation.device),
        )
        held = activation[at]
        some = edit.settings.get("components")
        if some is None:
            new = edit(held)
        else:
            which = torch.tensor(some, device=activation.device)
            new = held.index_copy(1, which, edit(held[:, which]))
        return activation.index_put(at, new)

    def _tokens(self, positions: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Rows and columns, within this call, of the tokens that are edited."""
        mask, past = self._mask, self._past
        last, prompt = mask.shape[1], min(self._prompt_width, mask.shape[1])
        rows, columns = [], []
        if past < prompt:
            for row, of_row in enumerate(mask[:, :prompt].tolist()):
                tokens = [column for column, is_token in enumerate(of_row) if is_token]
                if self.prompt_lengths is not None and not self._generating:
                    tokens = tokens[: self.prompt_lengths[row]]
                edited = [tokens[i] - past for i in _pick(positions, len(tokens), row)]
                here = [column for column in edited if column >= 0]
                columns += here
                rows += [row] * len(here)
        if self._when == "every token":
            new = range(max(prompt, past) - past, last - past)
            for row in range(len(mask)):
                columns += new
                rows += [row] * len(new)
        return rows, columns


def attach(
    model: PreTrainedModel, folder: str | Path | None = None, *, when: When = "prompt"
) -> Attached:
    """Put the edits of a folder on a transformers model.

    Args:
        model: the model that they were trained on, as `from_pretrained` gives it.
        folder: where `edits.json` and `edits.safetensors` are; beside this file by default.
        when: "prompt" edits the selected tokens of the prompt once; "every token" edits them
            and then each token that is generated after it.

    Raises:
        ValueError: the folder is of another format or was made for another model; unknown `when`.
    """
    folder = Path(__file__).parent if folder is None else Path(folder)
    if when not in ("prompt", "every token"):
        raise ValueError(f'when must be "prompt" or "every token", got {when!r}')
    config = json.loads((folder / "edits.json").read_text(encoding="utf-8"))
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {config.get('format')!r}; this file reads {FORMAT}")
    _check(model, config["model"])
    tensors = load_file(str(folder / "edits.safetensors"))
    edits = []
    for settings in config["edits"]:
        prefix = f"{settings['tensors']}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        edits.append(Edit(settings, own))
    return Attached(model, edits, when)


def _check(model: PreTrainedModel, trained_on: dict[str, Any]) -> None:
    config = model.config
    given = {
        "architecture": type(model).__name__,
        "n_layers": getattr(config, "num_hidden_layers", None),
        "d_model": getattr(config, "hidden_size", None),
    }
    for fact, found in given.items():
        if found != trained_on[fact]:
            raise ValueError(
                f"the edits were made for {trained_on['name']} ({fact} {trained_on[fact]}), but "
                f"this model has {fact} {found}"
            )


def _pick(positions: dict[str, Any], n: int, row: int) -> list[int]:
    """Which of the n tokens of a prompt are edited."""
    if "indices" in positions:
        outside = [i for i in positions["indices"] if not -n <= i < n]
        if outside:
            raise ValueError(f"row {row} has {n} prompt tokens; it has no token {outside[0]}")
        return sorted({i % n for i in positions["indices"]})
    if n == 0:
        raise ValueError(f"row {row} has no prompt token")
    if positions.get("every"):
        return list(range(n))
    first, last = positions["first"], positions["last"]
    most_first, most_last = n, n
    if positions["rounding"] == "pyreft":
        most_first, most_last = n // 2, n // 2
    elif positions["rounding"] == "paired" or (first and last):
        most_first, most_last = n // 2, n - n // 2
    first, last = min(first, most_first), min(last, most_last)
    return sorted({*range(first), *range(n - last, n)})
