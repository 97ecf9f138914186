"""Where in the model: a component of a layer, and there all of it, some heads or some neurons.

A `Site` knows the name of its hook, how wide it is on a given model, and how to read and write
the edited tokens of an activation. Which tokens those are is for `positions` to say.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.positions import Positions
from reft_interp.whole_numbers import whole_number

Component = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post"]

_HOOKS: dict[str, str] = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "mlp_post": "mlp.hook_post",
}
# The order in which a block computes them: what an edit at one site can reach.
_DEPTH = {
    name: i
    for i, name in enumerate(
        ("resid_pre", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
    )
}


@dataclass(frozen=True)
class Site:
    """A component of one layer.

    On BERT, which norms each sum, the hooks of TransformerLens 4 mean something else: `attn_out`
    is the normed state between attention and MLP, and `resid_mid` the sum after the MLP, before
    its norm.

    On decoders `resid_mid` is what the MLP reads: an edit there reaches the stream through the MLP
    alone, since TransformerLens 4 hooks the sum on its way into the MLP's norm. To change the sum
    itself, edit `attn_out`, which adds the same to it.

    Args:
        component: `resid_pre`, `resid_mid`, `resid_post` (the residual stream before, within
            and after the block), `attn_out`, `mlp_out` (what the sublayers add to it), `z`
            (the heads' outputs before the output projection) or `mlp_post` (MLP neurons).
        layer: index of the block, from 0.
        heads: which heads of `z`, one or several; all by default. They are query heads, also
            where several of them share keys and values.
        neurons: which neurons of `mlp_post`, one or several; all by default.

    Raises:
        ValueError: unknown component, negative layer, heads or neurons at a component that
            has none, an empty, repeated or negative index.
    """

    component: Component
    layer: int
    heads: tuple[int, ...] | None = None
    neurons: tuple[int, ...] | None = None

    def __init__(
        self,
        component: str,
        layer: SupportsIndex,
        heads: SupportsIndex | Iterable[SupportsIndex] | None = None,
        neurons: SupportsIndex | Iterable[SupportsIndex] | None = None,
    ):
        if component not in _HOOKS:
            raise ValueError(
                f"component must be one of {', '.join(get_args(Component))}, got {component!r}"
            )
        number = whole_number(layer, f"layer must be an integer, got {layer!r}")
        if number < 0:
            raise ValueError(f"layer must be at least 0, got {layer}")
        if heads is not None and component != "z":
            raise ValueError(f"heads can be chosen at component 'z' only, got {component!r}")
        if neurons is not None and component != "mlp_post":
            raise ValueError(f"neurons can be chosen at 'mlp_post' only, got {component!r}")
        object.__setattr__(self, "component", component)
        object.__setattr__(self, "layer", number)
        object.__setattr__(self, "heads", _indices("heads", heads))
        object.__setattr__(self, "neurons", _indices("neurons", neurons))

    def __str__(self) -> str:
        chosen = self.heads or self.neurons
        return self.hook_name + (f"[{','.join(map(str, chosen))}]" if chosen else "")

    @property
    def hook_name(self) -> str:
        """The TransformerLens name of the hook point, as in `blocks.12.hook_resid_post`."""
        return f"blocks.{self.layer}.{_HOOKS[self.component]}"

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites in the order in which a model computes them."""
        return self.layer, _DEPTH[self.component]

    def to_config(self) -> dict[str, Any]:
        """What the constructor needs, as JSON."""
        config: dict[str, Any] = {"component": self.component, "layer": self.layer}
        if self.heads is not None:
            config["heads"] = list(self.heads)
        if self.neurons is not None:
            config["neurons"] = list(self.neurons)
        return config

    def check(self, model: TransformerBridge) -> None:
        """Raise if `model` has no such site.

        Raises:
            TypeError: `model` is no hooked model.
            ValueError: the layer, a head or a neuron is out of range (the message gives the
                range), or the architecture lacks the component (the message gives the reason).
        """
        cfg = _config(model)
        name = getattr(cfg, "model_name", "the model")
        if self.layer >= cfg.n_layers:
            raise ValueError(
                f"layer must be between 0 and {cfg.n_layers - 1} ({name} has {cfg.n_layers} "
                f"layers), got {self.layer}"
            )
        if self.hook_name not in model.hook_dict:
            reason = (
                "its blocks run attention and MLP in parallel, so there is no point between them"
                if self.component == "resid_mid" and getattr(cfg, "parallel_attn_mlp", False)
                else "the architecture has no such hook"
            )
            raise ValueError(f"{name} has no {self.component} at layer {self.layer}: {reason}")
        _check_range("heads", self.heads, cfg.n_heads, name)
        if self.component == "mlp_post":
            _check_range("neurons", self.neurons, self._count_neurons(model, name), name)

    def width(self, model: TransformerBridge) -> int:
        """How wide the activations are that an intervention sees here."""
        self.check(model)
        cfg = _config(model)
        if self.component == "z":
            return (len(self.heads) if self.heads else cfg.n_heads) * cfg.d_head
        if self.component == "mlp_post":
            return len(self.neurons) if self.neurons else self._count_neurons(model)
        return cfg.d_model

    def read(
        self, activation: Float[Tensor, "batch pos *inner"], positions: Positions
    ) -> Float[Tensor, "n d"]:
        """The edited tokens of an activation of this hook, one row a token, on the device of the
        positions."""
        return self._chosen(positions.read(activation)).flatten(1)

    def write(
        self,
        activation: Float[Tensor, "batch pos *inner"],
        positions: Positions,
        new: Float[Tensor, "n d"],
    ) -> Float[Tensor, "batch pos *inner"]:
        """A copy of `activation` with `new` at the edited tokens."""
        positions, new = positions.to(activation.device), new.to(activation.device)
        tokens = activation[positions.rows, positions.columns]
        index = self.heads or self.neurons
        if index is None:
            tokens = new.reshape(tokens.shape)
        else:
            where = torch.tensor(index, device=tokens.device)
            shape = (len(tokens), len(index), *tokens.shape[2:])
            tokens = tokens.index_copy(1, where, new.reshape(shape))
        return activation.index_put((positions.rows, positions.columns), tokens)

    def _count_neurons(self, model: TransformerBridge, name: str = "the model") -> int:
        if _is_mixture_of_experts(model, self.layer):
            raise ValueError(
                f"{name} has no neurons at layer {self.layer}: its MLP is a mixture of experts, "
                "whose hook holds the mixed output. Use 'mlp_out'."
            )
        # TransformerLens takes four times d_model for OPT, whatever its ffn_dim is.
        output = getattr(model.blocks[self.layer].mlp, "out", None)
        projection = getattr(output, "original_component", None)
        count = getattr(projection, "in_features", model.cfg.d_mlp)  # gpt2's Conv1D has none
        if count is None:
            raise ValueError(f"{name} does not say how many neurons it has (cfg.d_mlp is None)")
        return count

    def _chosen(self, tokens: Float[Tensor, "n *inner"]) -> Float[Tensor, "n *chosen"]:
        index = self.heads or self.neurons
        return tokens if index is None else tokens[:, list(index)]


def check_site(site: object) -> None:
    """Raise unless something is a `Site`.

    Raises:
        TypeError: it is something else, as the number of a layer.
    """
    if not isinstance(site, Site):
        raise TypeError(f'site must be a Site, as Site("resid_post", 12), got {site!r}')


def _indices(
    name: str, given: SupportsIndex | Iterable[SupportsIndex] | None
) -> tuple[int, ...] | None:
    if given is None:
        return None
    # An array has `__index__` too, whatever its shape.
    several = given if isinstance(given, Iterable) else (given,)
    indices = tuple(whole_number(one, f"{name} must be an integer, got {one!r}") for one in several)
    if not indices or len(set(indices)) < len(indices) or min(indices) < 0:
        raise ValueError(f"{name} must be different indices from 0 on, got {given!r}")
    return indices


def _check_range(name: str, indices: tuple[int, ...] | None, count: int, model: str) -> None:
    if indices is not None and max(indices) >= count:
        raise ValueError(
            f"{name} must be between 0 and {count - 1} ({model} has {count} {name} a layer), "
            f"got {indices[0] if len(indices) == 1 else list(indices)}"
        )


def _is_mixture_of_experts(model: TransformerBridge, layer: int) -> bool:
    return any(name.startswith(f"blocks.{layer}.mlp.hook_expert") for name in model.hook_dict)


def _config(model: TransformerBridge) -> Any:
    if not hasattr(model, "cfg"):
        raise TypeError(
            f"model must be a TransformerBridge, as load_model gives it, got {model!r:.60}"
        )
    return model.cfg
