"""peft's methods beside ReFT: adapters and prompts on a plain copy of the hooked model.

The bridge replaces a model's modules, so peft is given transformers' own model with the same
weights (`models.plain`). Named here: LoRA, DoRA, (IA)³, prefix tuning, prompt tuning; any other of
peft's configurations works by `PEFT(config)`. peft has no bottleneck adapters.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers.pytorch_utils import Conv1D

from reft_interp.interop.peft_weights import (
    begins_in_weights,
    own,
    own_trained,
    share_unchanged,
)
from reft_interp.interop.plain_edits import check_plain_placements
from reft_interp.interop.plain_finetuning import PlainFinetuned, PlainMethod, copy_to_train
from reft_interp.models import identify
from reft_interp.runtime.running import is_causal
from reft_interp.training.reft_method import ReFT

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True, eq=False)
class PEFT(PlainMethod):
    """A method of peft's, given by its configuration.

    Args:
        config: as `peft.LoraConfig(r=8)`; `task_type` is filled in.
        name: in tables; the configuration's by default, without "Config".
        candidates: learning rates to choose from, the best guess first.

    Raises:
        ValueError: `reft` beside a configuration that puts tokens of its own before the prompt.
    """

    config: "PeftConfig"
    name: str = ""
    candidates: tuple[float, ...] = (1e-3, 3e-3, 3e-4)
    reft: ReFT | None = field(default=None, kw_only=True)
    """Interventions that are trained together with it, at outputs of blocks."""

    def __post_init__(self) -> None:
        if not self.name:
            own = type(self.config).__name__.removesuffix("Config")
            name = own if self.reft is None else f"{own} and {self.reft.name}"
            object.__setattr__(self, "name", name)
        if self.reft is not None and getattr(self.config, "is_prompt_learning", False):
            raise ValueError(
                f"reft: {type(self.config).__name__} puts tokens of its own before the prompt, "
                "whose positions an intervention would take for the prompt's"
            )

    def adapt(self, model):
        config = copy.deepcopy(self.config)
        config.task_type = "CAUSAL_LM" if is_causal(model) else "FEATURE_EXTRACTION"
        placements = () if self.reft is None else self.reft.placements(model)
        check_plain_placements(placements)
        plain = copy_to_train(model)
        _fill_targets(config, model, plain)
        with warnings.catch_warnings():
            # gpt2's matrices lie the other way round, which peft sees and sets right.
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
            before = list(plain.parameters())
            shared = own(before) if begins_in_weights(config) else []
            adapted = _peft().get_peft_model(plain, config)
        share_unchanged(shared)
        own_trained(adapted, before)
        return PlainFinetuned(
            model,
            adapted,
            aligned=not config.is_prompt_learning,
            placements=[one.built_for(model) for one in placements],
        )

    def describe(self):
        said = {name: value for name, value in self.config.to_dict().items() if value is not None}
        together = None if self.reft is None else self.reft.describe()
        return {**super().describe(), "config": _as_json(said), "reft": together}


def _peft() -> ModuleType:
    try:
        return import_module("peft")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'peft is needed for its methods: pip install "reft-interp[peft]"'
        ) from error


# The layers that peft adapts on most architectures that it knows, as the bridge names them.
_USUAL_TARGETS = {"LORA": ["attn.q", "attn.v"], "IA3": ["attn.k", "attn.v", "mlp.out"]}


def _fill_targets(config: Any, model: TransformerBridge, plain: nn.Module) -> None:
    """Say which modules are adapted where nothing does: peft's own for the architecture, or the
    usual ones where peft does not know it, or where its names are not those of transformers' today.

    Raises:
        ValueError: the architecture has no such layers.
    """
    method = str(getattr(config.peft_type, "value", config.peft_type))
    if method not in _USUAL_TARGETS or config.target_modules is not None:
        return
    if getattr(config, "target_parameters", None):
        return
    known = getattr(
        import_module("peft.utils"), f"TRANSFORMERS_MODELS_TO_{method}_TARGET_MODULES_MAPPING"
    )
    architecture: Any = model.original_model.config
    names = known.get(architecture.model_type)
    if isinstance(names, str):
        return  # a pattern, which peft reads
    if here := _present(names or (), plain):
        # Said outright: where experts are fused (Mixtral), peft converts the targets before it has
        # filled in its own, and then finds none.
        config.target_modules = here
        if method == "IA3" and config.feedforward_modules is None:
            # Those must be targets too, or what is saved cannot be loaded.
            named = import_module(
                "peft.utils"
            ).TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
            config.feedforward_modules = here & set(named[architecture.model_type])
        if missing := sorted(set(names) - here):
            warnings.warn(
                f"{method}: {architecture.model_type} has no {', '.join(missing)} as a layer of "
                f"its own in this version of transformers, so that {', '.join(sorted(here))} "
                "alone are adapted",
                stacklevel=2,
            )
        return
    found = {name: _module(model, plain, name) for name in _USUAL_TARGETS[method]}
    missing = [name for name, module in found.items() if module is None]
    if missing:
        raise ValueError(
            f"peft has no target modules for {identify(model).architecture}, and it has no single "
            f"linear layer for {', '.join(missing)}: say which layers are adapted, as "
            'target_modules="all-linear" or target_modules=["in_proj"]'
        )
    config.target_modules = set(found.values())
    if method == "IA3" and config.feedforward_modules is None:
        config.feedforward_modules = {found["mlp.out"]}


def _present(names: Iterable[str], plain: nn.Module) -> set[str]:
    """Those of the names that end the name of a module, as peft compares them."""
    modules = [f".{name}" for name, _ in plain.named_modules()]
    return {name for name in names if any(one.endswith(f".{name}") for one in modules)}


def _module(model: TransformerBridge, plain: nn.Module, name: str) -> str | None:
    """How the names of the plain modules end that the bridge calls, say, `attn.q`."""
    sublayer, layer = name.split(".")
    blocks = (model.adapter.component_mapping or {})["blocks"]
    whole = blocks.submodules.get(sublayer)
    if whole is None:
        return None
    # Where queries, keys and values are one matrix, the bridge's three are parts of it.
    layer = "qkv" if layer in ("q", "k", "v") and "qkv" in whole.submodules else layer
    part = whole.submodules.get(layer)
    ending = f"{whole.name}.{part.name}" if part is not None else None
    ends = [m for n, m in plain.named_modules() if ending and n.endswith(f".{ending}")]
    return ending if ends and all(isinstance(m, nn.Linear | Conv1D) for m in ends) else None


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_as_json, value))
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def lora(
    rank: int = 8,
    *,
    alpha: float | None = None,
    target_modules: Sequence[str] | str | None = None,
    dropout: float = 0.0,
    candidates: tuple[float, ...] = (1e-3, 3e-3, 3e-4),
    name: str = "LoRA",
) -> PEFT:
    """LoRA (Hu et al. 2022, arXiv:2106.09685).

    Args:
        rank: of the adapters.
        alpha: their scale times the rank; twice the rank by default.
        target_modules: which modules, as peft has it; by default those that peft has for the
            architecture, and queries and values where it has none.
        dropout: on what enters the adapters.
        candidates: learning rates to choose from.
        name: in tables.
    """
    return _lora(rank, alpha, target_modules, dropout, candidates, name, dora=False)


def dora(
    rank: int = 8,
    *,
    alpha: float | None = None,
    target_modules: Sequence[str] | str | None = None,
    dropout: float = 0.0,
    candidates: tuple[float, ...] = (1e-3, 3e-3, 3e-4),
    name: str = "DoRA",
) -> PEFT:
    """DoRA (Liu et al. 2024, arXiv:2402.09353); arguments as for `lora`."""
    return _lora(rank, alpha, target_modules, dropout, candidates, name, dora=True)


def _lora(rank, alpha, target_modules, dropout, candidates, name, *, dora) -> PEFT:
    config = _peft().LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=target_modules,
        lora_dropout=dropout,
        use_dora=dora,
    )
    return PEFT(config, name, candidates)


def ia3(
    *,
    target_modules: Sequence[str] | str | None = None,
    feedforward_modules: Sequence[str] | str | None = None,
    candidates: tuple[float, ...] = (1e-2, 3e-2, 3e-3),
    name: str = "(IA)³",
) -> PEFT:
    """(IA)³: keys, values and feed-forward activations are scaled (Liu et al. 2022,
    arXiv:2205.05638).

    Args:
        target_modules: which modules, as peft has it; by default those that peft has for the
            architecture, and keys, values and the output of the MLP where it has none.
        feedforward_modules: those of them whose input is scaled instead of their output.
        candidates: learning rates to choose from.
        name: in tables.
    """
    config = _peft().IA3Config(
        target_modules=target_modules, feedforward_modules=feedforward_modules
    )
    return PEFT(config, name, candidates)


def prompt_tuning(
    tokens: int = 20,
    *,
    candidates: tuple[float, ...] = (3e-2, 1e-1, 1e-2),
    name: str = "prompt tuning",
) -> PEFT:
    """Prompt tuning: embeddings of new tokens before the prompt (Lester et al. 2021,
    arXiv:2104.08691), which begin as those of tokens drawn from the vocabulary."""
    peft = _peft()
    config = peft.PromptTuningConfig(
        num_virtual_tokens=tokens, prompt_tuning_init=peft.PromptTuningInit.SAMPLE_VOCAB
    )
    return PEFT(config, name, candidates)


def prefix_tuning(
    tokens: int = 20,
    *,
    candidates: tuple[float, ...] = (1e-2, 3e-2, 3e-3),
    name: str = "prefix tuning",
) -> PEFT:
    """Prefix tuning: keys and values before the prompt in every layer (Li and Liang 2021,
    arXiv:2101.00190)."""
    return PEFT(_peft().PrefixTuningConfig(num_virtual_tokens=tokens), name, candidates)
