"""Edits of a transformers model that were trained with reft_interp and run without it.

This file stands beside `edits.json` (what is done, where, on which tokens) and
`edits.safetensors` (with which numbers), and needs torch, safetensors and transformers alone:

    import edits  # with the folder on sys.path

    model = AutoModelForCausalLM.from_pretrained(...)
    tokenizer = AutoTokenizer.from_pretrained(..., padding_side="left")
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    position_ids = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with edits.attach(model):
        logits = model(**inputs, position_ids=position_ids).logits
        tokens = model.generate(**inputs)

Models with learned positions (gpt2) need `position_ids` in a plain call whose prompts are padded on
the left, edited or not: by themselves they count the padding too. `generate` gives them itself.
Give `add_special_tokens=False` where a chat template wrote the prompts, with its BOS token.
`attach` without `with` leaves the edits on until `remove()`.
"""

import functools
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

FORMAT = 2
When = Literal["prompt", "every token"]


class Change(nn.Module):
    """What one formula adds to h: Dᵀv ("add"), Dᵀ(v − Dh) ("set") or (s − 1) ⊙ h + b ("scale").

    In the first two v = f(Wh + b) − c or a constant.

    Args:
        term: of the entry of `edits.json`.
        tensors: D as "rows" [r, d]; W as "weight" [r, d], b as "bias" [r] and perhaps c as
            "offset" [r]; or the constant v as "constant" [r]. Of the third, s as "scale" [d] and
            b as "bias" [d].
    """

    rows: Tensor
    weight: Tensor
    bias: Tensor
    offset: Tensor | None
    constant: Tensor | None
    scale: Tensor | None

    def __init__(self, term: dict[str, Any], tensors: dict[str, Tensor]):
        super().__init__()
        self.strength = term["strength"]
        self.sets = term["verb"] == "set"
        self.function = ACT2FN[term.get("activation", "linear")]
        self.dtype = next(iter(tensors.values())).dtype
        for name in ("rows", "weight", "bias", "offset", "constant", "scale"):
            self.register_buffer(name, tensors.get(name))

    def forward(self, x: Tensor) -> Tensor:
        work = x.dtype
        if self.scale is not None:
            return x * (self.scale.to(work) - 1) + self.bias.to(work)
        rows = self.rows.to(work)
        if self.constant is None:
            v = self.function(x @ self.weight.to(work).T + self.bias.to(work))
            v = v if self.offset is None else v - self.offset.to(work)
        else:
            v = self.constant.to(work).expand(*x.shape[:-1], -1)
        if self.sets:
            v = v - x @ rows.T
        return v @ rows


class Edit(nn.Module):
    """h ← h + Σ αᵢΔᵢ(h): changes that all read the same h, each times its strength.

    Args:
        settings: the entry of `edits.json`.
        tensors: of each change, its number and its own names, as "0.rows".
    """

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor]):
        super().__init__()
        self.settings = settings
        self.changes = nn.ModuleList(
            Change(term, _within(tensors, str(i))) for i, term in enumerate(settings["terms"])
        )

    def forward(self, h: Tensor) -> Tensor:
        """The edited activations of some tokens, [n, d]."""
        # Computed in the precision of what was trained, and rounded once; sums not in half of it.
        changes = cast("list[Change]", list(self.changes))
        dtypes = [change.dtype for change in changes]
        if [change.strength for change in changes] != [1]:
            dtypes.append(torch.float32)
        x = h.to(functools.reduce(torch.promote_types, dtypes, h.dtype))
        edited = x
        for change in changes:
            edited = edited + change.strength * change(x)
        return edited.to(h.dtype)


@dataclass
class CacheNotes:
    """What edits did to the tokens that a key-value cache holds. It is kept on the cache."""

    read: int = 0
    """How many columns of the cache were read with the edits on."""
    rows: dict[str, dict[int, set[int]]] = field(default_factory=dict)
    """Of each kind of positions, and each of those columns, the rows that were edited."""


class Attached:
    """Edits that are on a model, until `remove()` or the end of a `with`.

    A call without a key-value cache reads prompts: all tokens that the attention mask names. In
    `generate`, and in calls that go on from a cache, the prompt stays what it was, and what comes
    after it are new tokens. Several may be on one model, and come off in any order.

    `generate` gives the same with any cache: one that is filled in parts (`prefill_chunk_size`), a
    static one, and one of an earlier turn (`past_key_values`), which is refused where its tokens
    are not edited as those of the longer prompt would be.
    """

    prompt_lengths: list[int] | None = None
    """How many tokens of each row are prompt, where rows hold answers too (not for `generate`)."""

    def __init__(self, model: PreTrainedModel, edits: list[Edit], when: When, name: str = ""):
        self._model = model
        self._edits = edits
        self._when = when
        self._noted_as = f"_edits of {name}"
        self._mask = torch.ones(0, 0)
        self._past = self._end = self._prompt_width = 0
        self._generating = self._goes_on = False
        self._prompt_mask: Tensor | None = None
        self._notes, self._cache = CacheNotes(), None
        self._places: dict[str, tuple[list[int], list[int]]] = {}
        names = inspect.signature(model.forward)
        self._handles = [
            model.register_forward_pre_hook(
                lambda _, args, kwargs: self._begin(names.bind_partial(*args, **kwargs).arguments),
                with_kwargs=True,
            ),
            *(self._place(model, edit) for edit in edits),
            model.register_forward_hook(lambda _, args, output: self._end_of_call(output)),
        ]
        self._generate = _edited_generate(model)
        if self._generate is not None:
            self._generate.attached.append(self)

    def __enter__(self) -> "Attached":
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the edits off again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._generate is not None:
            self._generate.detach(self)

    def _begin_generate(self, prompts: Tensor | None, mask: Tensor | None) -> None:
        """What `generate` was given: its calls of the model may see no more than parts of it."""
        self._generating = self._goes_on = True
        self._prompt_mask = mask
        if mask is not None:  # a cache holds tokens that need not be given again
            self._prompt_width = mask.shape[1]
        else:
            self._prompt_width = 1 if prompts is None else prompts.shape[1]

    def _end_generate(self) -> None:
        self._generating, self._prompt_mask = False, None

    def _begin(self, given: dict[str, Any]) -> None:
        """What a call of the model reads: which columns, and which of them are prompt."""
        tokens = given.get("input_ids")
        tokens = given["inputs_embeds"] if tokens is None else tokens
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        rows, width = tokens.shape[:2]
        if isinstance(mask, Tensor) and mask.ndim == 2:
            past = mask.shape[1] - width
        elif mask is None or self._generating:  # which makes others for static caches
            past = 0 if cache is None else int(cache.get_seq_length())
        else:
            raise ValueError(
                "attention_mask must be [batch, pos], to say which tokens are padding, got "
                f"{f'shape {tuple(mask.shape)}' if isinstance(mask, Tensor) else type(mask)}"
            )
        if self._generating:
            mask = self._mask_of_prompts(mask, rows)
        elif past == 0:
            self._prompt_width = width
        self._mask = torch.ones(rows, past + width) if mask is None else mask
        self._past, self._end, self._places = past, past + width, {}
        self._cache = cache
        if past == 0:
            self._notes = CacheNotes()
        elif cache is not None:
            self._notes = getattr(cache, self._noted_as, None) or CacheNotes()
            self._check_cache()
        self._goes_on = False

    def _mask_of_prompts(self, mask: Any, rows: int) -> Tensor:
        """The mask of whole prompts, in a call that `generate` makes with this mask."""
        if self._prompt_mask is None:
            if mask is None:  # generate leaves out a mask without padding
                mask = torch.ones(rows, self._prompt_width)
            if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] < self._prompt_width:
                raise ValueError(
                    "generate needs attention_mask, as tokenizers return it, with a static cache "
                    "or prefill_chunk_size: its calls of the model don't show where prompts are "
                    "padded"
                )
            self._prompt_mask = mask[:, : self._prompt_width]
        # Beams and further samples of a prompt follow one after the other.
        return self._prompt_mask.repeat_interleave(rows // len(self._prompt_mask), dim=0)

    def _check_cache(self) -> None:
        past, notes = self._past, self._notes
        if past > notes.read:
            raise ValueError(
                f"the key-value cache holds {past} tokens, of which {past - notes.read} were read "
                "without these edits: attach them first, and begin with an empty cache"
            )
        if not (self._generating and self._goes_on):
            return
        is_token = self._mask.bool()
        for key, noted in notes.rows.items():
            was = {(row, at) for at in range(past) for row in noted[at] if is_token[row, at]}
            if was != set(zip(*self._tokens(json.loads(key), 0, past), strict=True)):
                raise ValueError(
                    f"the tokens in past_key_values ({past} of each row) were edited as an "
                    f"earlier prompt asked. Positions {key} are others in this longer prompt: "
                    "call generate without past_key_values"
                )

    def _end_of_call(self, output: Any) -> None:
        """Keep on the cache what was done to the tokens that it holds now: copies know it too."""
        given = output.values() if isinstance(output, dict) else output
        caches = (one for one in (self._cache, *given) if hasattr(one, "get_seq_length"))
        cache = next(caches, None)
        if cache is None:
            return
        self._notes.read = self._end
        for key, places in self._places.items():
            edited = {column: set[int]() for column in range(self._past, self._end)}
            for row, column in zip(*places, strict=True):
                edited[column].add(row)
            self._notes.rows.setdefault(key, {}).update(edited)
        setattr(cache, self._noted_as, self._notes)

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
            self._places[key] = self._tokens(edit.settings["positions"], self._past, self._end)
        rows, columns = self._places[key]
        if not rows:
            return activation
        edit.to(activation.device)
        at = (
            torch.tensor(rows, device=activation.device),
            torch.tensor(columns, device=activation.device) - self._past,
        )
        held = activation[at]
        some = edit.settings.get("components")
        if some is None:
            new = edit(held)
        else:
            which = torch.tensor(some, device=activation.device)
            new = held.index_copy(1, which, edit(held[:, which]))
        return activation.index_put(at, new)

    def _tokens(
        self, positions: dict[str, Any], start: int, end: int
    ) -> tuple[list[int], list[int]]:
        """Rows and columns of the tokens that are edited, of the columns from start to end."""
        prompt = min(self._prompt_width, self._mask.shape[1])
        rows, columns = [], []
        if start < prompt:
            for row, of_row in enumerate(self._mask[:, :prompt].tolist()):
                tokens = [column for column, is_token in enumerate(of_row) if is_token]
                if self.prompt_lengths is not None and not self._generating:
                    tokens = tokens[: self.prompt_lengths[row]]
                edited = [tokens[i] for i in _pick(positions, len(tokens), row)]
                here = [column for column in edited if start <= column < end]
                columns += here
                rows += [row] * len(here)
        if self._when == "every token":
            new = range(max(prompt, start), end)
            for row in range(len(self._mask)):
                columns += new
                rows += [row] * len(new)
        return rows, columns


class _EditedGenerate:
    """A model's `generate`, which tells the edits that are on the model what it was given."""

    def __init__(self, model: PreTrainedModel):
        self.attached: list[Attached] = []
        self._model = model
        self._before = model.__dict__.get("generate")
        self._generate: Any = model.generate
        functools.update_wrapper(self, self._generate)
        model.__dict__["generate"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = ("inputs", "input_ids", "inputs_embeds")
        given = [*args[:1], *(kwargs.get(name) for name in names)]
        prompts = next((one for one in given if isinstance(one, Tensor)), None)
        attached = list(self.attached)
        try:
            for one in attached:
                one._begin_generate(prompts, kwargs.get("attention_mask"))
            return self._generate(*args, **kwargs)
        finally:
            for one in attached:
                one._end_generate()

    def detach(self, edits: Attached) -> None:
        """Tell them no more; the last that goes leaves the model as it was."""
        if edits in self.attached:
            self.attached.remove(edits)
        if not self.attached and self._model.__dict__.get("generate") is self:
            del self._model.__dict__["generate"]
            if self._before is not None:
                self._model.__dict__["generate"] = self._before


def _edited_generate(model: PreTrainedModel) -> "_EditedGenerate | None":
    """The one of a model, which another copy of this file may have put there."""
    present = getattr(model, "generate", None)
    if present is None or hasattr(present, "attached"):
        return present
    return _EditedGenerate(model)


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
        edits.append(Edit(settings, _within(tensors, settings["tensors"])))
    return Attached(model, edits, when, str(folder.resolve()))


def _within(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Those whose names begin with a part, by what follows."""
    prefix = f"{part}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _check(model: PreTrainedModel, trained_on: dict[str, Any]) -> None:
    config = model.config.get_text_config()  # a part of that of a model that sees images too
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
    n -= positions["rounding"] == "pyreft-but-last"
    most_first, most_last = n, n
    if positions["rounding"] in ("pyreft", "pyreft-but-last"):
        most_first, most_last = n // 2, n // 2
    elif positions["rounding"] == "paired" or (first and last):
        most_first, most_last = n // 2, n - n // 2
    first, last = min(first, most_first), min(last, most_last)
    return sorted({*range(first), *range(n - last, n)})
