"""Methods by the names that papers give them."""

import difflib
from collections.abc import Callable
from dataclasses import replace

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.peft_methods import dora, ia3, lora, prefix_tuning, prompt_tuning
from reft_interp.interop.plain_finetuning import BitFit
from reft_interp.interventions import (
    RED,
    ConsReFT,
    DiReFT,
    Intervention,
    LobiReFT,
    LoReFT,
    NoReFT,
)
from reft_interp.runtime.running import is_causal
from reft_interp.tasks.suites import PAPER_RECIPES, Recipe
from reft_interp.training.class_finetuning import HeadAlone
from reft_interp.training.finetuning import FinetuningMethod
from reft_interp.training.linear_head import LinearHead
from reft_interp.training.prompting import FewShot, MostFrequentAnswer, Untouched
from reft_interp.training.reft_method import ReFT

_REFTS: dict[str, type[Intervention]] = {
    cls.__name__: cls for cls in (LoReFT, DiReFT, NoReFT, ConsReFT, LobiReFT)
}
_OTHERS: dict[str, Callable[[], FinetuningMethod]] = {
    "untouched": Untouched,
    "few-shot prompt": FewShot,
    "most frequent answer": MostFrequentAnswer,
    "linear head": LinearHead,
    "head alone": HeadAlone,
    "RED": lambda: ReFT(RED(), on="every", component="mlp_out", name="RED"),
    "LoRA": lora,
    "DoRA": dora,
    "prefix tuning": prefix_tuning,
    "prompt tuning": prompt_tuning,
    "(IA)³": ia3,
    "BitFit": BitFit,
}
_BOTH = "LoRA and LoReFT"
_OF_DECODERS = "f3+l3"
NAMES = (*_REFTS, "NodiReFT", *_OTHERS, _BOTH)
"""What `compare` knows by name."""


def named_method(name: str, recipe: Recipe, model: TransformerBridge) -> FinetuningMethod:
    """A method with its usual settings; a ReFT with the recipe's.

    Of the recipe are rank, dropout, layers (those that the model has), positions, learning rate,
    warm-up and weight decay; the rows a step and how many steps are the budget's. The paper's own
    recipes were searched for other models and longer trainings: of those the learning rate is
    tried last and the schedule is the budget's, and in place of GLUE's positions, which are for
    encoders, a ReFT of a decoder has "f3+l3". A recipe that differs from the paper's in anything is
    followed, and so is GLUE's on an encoder: its learning rate is tried first.

    On an encoder "linear head" is "head alone": its head is no linear one.

    Raises:
        ValueError: an unknown name.
    """
    if name == LinearHead.name and not is_causal(model):
        return HeadAlone()
    if name in _OTHERS:
        return _OTHERS[name]()
    if name == _BOTH:
        beside = named_method("LoReFT", recipe, model)
        assert isinstance(beside, ReFT)
        return replace(lora(), reft=beside, name=name)
    wanted = "DiReFT" if name == "NodiReFT" else name  # pyreft's name for the paper's DiReFT
    if wanted not in _REFTS:
        close = difflib.get_close_matches(name, NAMES, 1) or [
            known for known in NAMES if known.lower() == name.lower()
        ]
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"methods must be among {', '.join(NAMES)}, or objects; got {name!r}{meant}"
        )
    depth = int(model.cfg.n_layers)
    # Layers are those of the paper's models, which may have more.
    listed = "all" if recipe.layers == "all" else [i for i in recipe.layers if i < depth]
    # GLUE's recipes are for encoders, which read the first token; decoders read the last.
    for_encoders = recipe.decoding is None
    of_paper = recipe in PAPER_RECIPES and not (for_encoders and not is_causal(model))
    positions = _OF_DECODERS if of_paper and for_encoders else recipe.positions
    usual = tuple(rate for rate in ReFT.candidates if rate != recipe.learning_rate)
    own = (recipe.learning_rate,)
    return ReFT(
        _REFTS[wanted](rank=recipe.rank, dropout=recipe.dropout),  # pyright: ignore[reportCallIssue]
        listed or "all",
        positions,
        tied=recipe.tied or "+" not in positions,
        candidates=usual + own if of_paper else own + usual,
        # A recipe without warm-up does not forbid that of the budget.
        warmup_ratio=None if of_paper else recipe.warmup_ratio or None,
        weight_decay=None if of_paper else recipe.weight_decay or None,
        name=name,
    )
