"""peft's methods beside ReFT: adapters and prompts on a plain copy of the hooked model.

The bridge replaces a model's modules, so peft is given transformers' own model with the same
weights (`models.plain`). Named here: LoRA, DoRA, (IA)³, prefix tuning, prompt tuning; any other of
peft's configurations works by `PEFT(config)`. peft has no bottleneck adapters.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reft_interp.interop.plain_edits import check_plain_placements
from reft_interp.interop.plain_finetuning import PlainFinetuned, PlainMethod
from reft_interp.models.plain import plain_copy
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
        config.task_type = "CAUSAL_LM"
        placements = () if self.reft is None else self.reft.placements(model)
        check_plain_placements(placements)
        with warnings.catch_warnings():
            # gpt2's matrices lie the other way round, which peft sees and sets right.
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
            adapted = _peft().get_peft_model(plain_copy(model), config)
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
        target_modules: which modules, as peft has it; those that peft has for the architecture
            (queries and values of a llama) by default.
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


def ia3(*, candidates: tuple[float, ...] = (1e-2, 3e-2, 3e-3), name: str = "(IA)³") -> PEFT:
    """(IA)³: keys, values and feed-forward activations are scaled (Liu et al. 2022,
    arXiv:2205.05638)."""
    return PEFT(_peft().IA3Config(), name, candidates)


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
