"""Edits of every token written into a model's own weights, where that is exact.

Afterwards nothing has to be hooked, and any program that runs the model runs the edit. What is
exact follows from what a block adds up. The stream that leaves it is h = x + attn + mlp, and
mlp = Wm + b: a constant shift of h is a shift of b. An affine map of h is not, since it maps x
too, which no weight of the block writes. An affine map y ← My + c of what attention or MLP give
is W ← MW, b ← Mb + c. Next door: `export` runs what cannot be folded.
"""

import copy
import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from reft_interp.interop.export import describe, place
from reft_interp.interop.transformers_edits import Attached, Edit
from reft_interp.interventions import Intervention
from reft_interp.models import identify
from reft_interp.positions import every
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.running import is_causal
from reft_interp.runtime.trained import Trained, intervened_of
from reft_interp.sites import Component, Site

# The sublayer whose output layer takes a shift of the stream, or a map of what it gives itself.
_SUBLAYERS: dict[Component, Component] = {"mlp_out": "mlp_post", "attn_out": "z"}
# Configurations have one or the other, or none, and then always or never a bias.
_BIAS_FLAGS = ("mlp_bias", "attention_bias")


def fold_into_weights(intervened: Trained, model: PreTrainedModel) -> PreTrainedModel:
    """Write edits of every token into the weights of a plain transformers model.

    Its logits are then those of `intervened`, and `model.generate` gives what
    `intervened.generate(when="every token")` does. Exact, up to rounding, are shifts by a
    constant (LobiReFT, VectorAddition) of `resid_post`, and of `resid_pre` from layer 1 on; and
    at `mlp_out` and `attn_out` all edits that are affine in the activation, so also LoReFT, RED,
    ConsReFT, Clamp and the ablations; of all of these also sums (`scaled`, `interpolated`).
    Anything else is refused, and before it is returned the model is compared with hooked edits on
    random tokens.

    Args:
        intervened: with placements on "every" alone; or a result that holds it.
        model: the same model as `from_pretrained` gives it, not hooked. It is changed in place:
            an output layer gets a bias where it has none, and the configuration says so where it
            can, so that `save_pretrained` keeps it (llama; the others' layers of the same kind
            get zeros). Where it cannot (qwen2), a warning says that the saved model would lose
            the bias.

    Returns:
        `model`.

    Raises:
        ValueError: an edit that is no shift, or not affine, or not on every token; a site, layer
            or architecture where it cannot be written; another model. `model` is then as it was,
            and so it is where the comparison fails, for instance for want of memory.
    """
    intervened = intervened_of(intervened, "intervened")
    steps = [_step(intervened, p) for p in sorted(intervened.placements, key=_depth)]
    _check_model(intervened, model)
    outputs = {module: _output_layer(model, module) for module, _, _ in steps}
    generator = torch.Generator().manual_seed(0)
    # Of a model that sees images too, the text's part of the configuration.
    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.randint(vocabulary, (2, 8), generator=generator).to(model.device)
    with torch.no_grad():
        untouched = model(tokens).logits
        with Attached(model, _edits(intervened), "prompt"):
            expected = model(tokens).logits
    originals = {
        module: (layer.weight.detach().clone(), layer.bias) for module, layer in outputs.items()
    }
    try:
        for module, linear, constant in steps:
            _write(outputs[module], linear, constant)
        with torch.no_grad():
            _check_logits(model, model(tokens).logits, expected, untouched)
    except BaseException:  # also where memory runs out, or somebody interrupts
        for module, (weight, bias) in originals.items():
            outputs[module].weight.data = weight
            outputs[module].bias = bias
        raise
    _state_biases(model, [module for module, (_, bias) in originals.items() if bias is None])
    return model


# The share of an edit's effect on the logits that folding it may miss.
_LEAST_LOST = 0.05


def _check_logits(
    model: PreTrainedModel,
    folded: Float[Tensor, "batch pos vocab"],
    expected: Float[Tensor, "batch pos vocab"],
    untouched: Float[Tensor, "batch pos vocab"],
) -> None:
    """Raise unless the folded edits give the logits that the hooked ones give."""
    error = (folded - expected).abs().max()
    # In half precision the logits' rounding alone would pass what is a good part of the edit.
    rounding = 256 * torch.finfo(expected.dtype).eps * expected.abs().max()
    effect = (expected - untouched).abs().max()
    if not error <= torch.minimum(rounding, _LEAST_LOST * effect + rounding / 16):
        raise ValueError(
            f"folded into {type(model).__name__} the edits change its logits by {error:.1e} more "
            "or less than they should, so this architecture does something to the sum of a "
            "block's parts that is not known here. Export them: export_to_transformers."
        )


_Map = tuple[Float[Tensor, "d d"] | None, Float[Tensor, "d"]]


def _step(
    intervened: IntervenedModel, placement: Placement
) -> tuple[str, Float[Tensor, "d d"] | None, Float[Tensor, "d"]]:
    """The output layer that an edit is written into, and the map of what that gives."""
    model, site = intervened.model, placement.site
    if placement.on != every():
        raise ValueError(
            f"{placement}: weights are the same for all tokens, so only edits on 'every' can be "
            "folded"
        )
    if not is_causal(model):
        raise ValueError(f"{identify(model).name} is an encoder, which norms each sum")
    linear, constant = affine_map(placement.intervention)
    if site.component in _SUBLAYERS:
        return _module(model, site), linear, constant
    if linear is not None:
        raise ValueError(
            f"{placement}: what it adds depends on h, and h is a sum whose other parts no weight "
            "of this layer writes. In the residual stream only shifts by a constant can be "
            "folded (LobiReFT, VectorAddition); affine maps can at 'mlp_out' and 'attn_out'."
        )
    layer = {"resid_post": site.layer, "resid_pre": site.layer - 1}.get(site.component, -1)
    if layer < 0:
        raise ValueError(
            f"{placement}: shifts can be folded at 'resid_post', at 'resid_pre' from layer 1 on, "
            "at 'mlp_out' and at 'attn_out'"
        )
    return _module(model, Site("mlp_out", layer)), None, constant


def affine_map(intervention: Intervention) -> _Map:
    """M and c of h ← Mh + c, in float64; M is None for the identity.

    Raises:
        ValueError: it is not affine in h, or `describe` cannot tell what it does.
    """
    assert intervention.width is not None  # it is placed
    constant = torch.zeros(intervention.width).double()
    linear = torch.zeros(intervention.width, intervention.width).double()
    for term, tensors in describe(intervention):
        if term.get("activation", "linear") != "linear":
            raise ValueError(
                f"{type(intervention).__name__}: with activation {term['activation']!r} it is not "
                "affine in h, so no weight can hold it"
            )
        t = {name: tensor.double() for name, tensor in tensors.items()}
        change, shift = _scaling(t) if term["verb"] == "scale" else _along_rows(term["verb"], t)
        linear += term["strength"] * change
        constant += term["strength"] * shift
    return (torch.eye(len(constant)).double() + linear if linear.any() else None), constant


def _scaling(t: dict[str, Tensor]) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d"]]:
    """What is added to h: a matrix times it, and a constant."""
    return torch.diag(t["scale"] - 1), t["bias"]


def _along_rows(verb: str, t: dict[str, Tensor]) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d"]]:
    """What is added to h along rows: a matrix times it, and a constant."""
    rows = t["rows"]
    value = t.get("constant", t.get("bias"))
    assert value is not None  # describe gives one or the other
    read = t.get("weight", torch.zeros_like(rows))
    read = read - rows if verb == "set" else read
    return rows.T @ read, (value - t.get("offset", torch.zeros_like(value))) @ rows


def _module(model, site: Site) -> str:
    """The plain name of the output layer of a sublayer."""
    name, sublayer = identify(model).name, site.component.removesuffix("_out")
    hooks = model.hook_dict
    given = hooks.get(f"blocks.{site.layer}.{sublayer}.hook_out")
    if site.hook_name not in hooks or hooks[site.hook_name] is not given:
        raise ValueError(
            f"{name} norms or scales what the {sublayer} gives before it is added to the residual "
            "stream, so no bias of it is a shift there"
        )
    found = place(model, Site(_SUBLAYERS[site.component], site.layer))
    if found["at"] != "input":
        raise ValueError(
            f"{name} has no single output layer in the {sublayer} of layer {site.layer}: it is a "
            "mixture of experts"
        )
    return found["module"]


def _check_model(intervened: IntervenedModel, model: PreTrainedModel) -> None:
    known = identify(intervened.model)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            "model must be a plain transformers model, as from_pretrained gives it, got "
            f"{type(model).__name__}"
        )
    if model is intervened.model.original_model:
        raise ValueError(
            "model must be a plain transformers model of its own, as from_pretrained gives it, got "
            f"the {type(model).__name__} that the interventions are placed in, which is hooked"
        )
    config = model.config.get_text_config()
    found = type(model).__name__, config.num_hidden_layers, config.hidden_size
    if found != (known.architecture, known.n_layers, known.d_model):
        raise ValueError(
            f"model is {found[0]} with {found[1]} layers of width {found[2]}, but the "
            f"interventions are placed in {known}"
        )


def _output_layer(model: PreTrainedModel, module: str) -> nn.Linear | Conv1D:
    try:
        layer = model.get_submodule(module)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear | Conv1D) or not layer.weight.is_floating_point():
        raise ValueError(
            f"model has {type(layer).__name__} at {module}, where a Linear was expected: is it "
            "hooked, quantized, or wrapped?"
        )
    return layer


@torch.no_grad()
def _write(layer: nn.Linear | Conv1D, linear: Tensor | None, constant: Tensor) -> None:
    weight = layer.weight
    constant = constant.to(weight.device)
    bias = torch.zeros_like(constant) if layer.bias is None else layer.bias.double()
    if linear is not None:
        linear = linear.to(weight.device)
        wide = weight.double()
        # Conv1D holds the transpose of what Linear holds.
        mapped = linear @ wide if isinstance(layer, nn.Linear) else wide @ linear.T
        weight.copy_(mapped)
        bias = linear @ bias
    layer.bias = nn.Parameter((bias + constant).to(weight), requires_grad=weight.requires_grad)


def _state_biases(model: PreTrainedModel, added: Iterable[str]) -> None:
    """Have the configuration say that these modules have a bias, or warn that it cannot."""
    unstated = []
    for module in added:
        if not any(_state_bias(model, f"{module}.bias", flag) for flag in _BIAS_FLAGS):
            unstated.append(module)
    if unstated:
        warnings.warn(
            f"transformers' {type(model).__name__} has no setting for a bias of "
            f"{', '.join(unstated)}. The model is right as it is, but from_pretrained would drop "
            "the bias of a saved copy: export the edits instead (export_to_transformers).",
            stacklevel=3,
        )


def _state_bias(model: PreTrainedModel, name: str, flag: str) -> bool:
    if getattr(model.config.get_text_config(), flag, None) is None:
        return False
    config = copy.deepcopy(model.config)
    setattr(config.get_text_config(), flag, True)
    with torch.device("meta"):
        twin = type(model)(config)
    shapes = {n: p.shape for n, p in twin.named_parameters()}
    if name not in shapes:
        return False
    present = dict(model.named_parameters())
    for missing in shapes.keys() - present.keys():
        parent, _, bias = missing.rpartition(".")
        module = model.get_submodule(parent)
        like = next(module.parameters())
        zeros = torch.zeros(shapes[missing], dtype=like.dtype, device=like.device)
        setattr(module, bias, nn.Parameter(zeros, requires_grad=like.requires_grad))
    setattr(model.config.get_text_config(), flag, True)
    return True


def _edits(intervened: IntervenedModel) -> list[Edit]:
    edits = []
    for placement in intervened.placements:
        described = describe(placement.intervention)
        tensors = {f"{i}.{n}": t for i, (_, own) in enumerate(described) for n, t in own.items()}
        settings = {
            "terms": [term for term, _ in described],
            **place(intervened.model, placement.site),
            "positions": {"every": True},
        }
        edits.append(Edit(settings, tensors))
    return edits


def _depth(placement: Placement) -> tuple[int, int]:
    return placement.site.depth
