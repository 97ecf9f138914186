"""pyreft's six classes in ours: what each saves, and the intervention that computes the same.

By pyreft 0.1.0, `interventions.py`. In evaluation they compute, with f the identity or `act_fn`:

    LoreftIntervention     h + Rᵀ(f(Wh + b) − Rh)
    NoreftIntervention     h + W₂ᵀ(f(W₁h + b) − W₂h − c)     c: the bias of its projection
    ConsreftIntervention   h + Rᵀ(b − Rh)
    LobireftIntervention   h + Rᵀb
    DireftIntervention     h + Rᵀf(Wh + b)
    NodireftIntervention   h + W₂ᵀf(W₁h + b)                 has a c too, and ignores it

Next door: `pyreft` finds the files and the places in the model. Nothing here imports pyreft.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from reft_interp.interventions import (
    ConsReFT,
    DiReFT,
    Intervention,
    LobiReFT,
    LoReFT,
    NoReFT,
)
from reft_interp.subspace import Subspace

_LEARNED = {"learned_source.weight": "r d", "learned_source.bias": "r"}
_PARAMETRIZED = {
    "rotate_layer.parametrizations.weight.original": "d r",
    "rotate_layer.parametrizations.weight.0.base": "d d",
}
_FREE = {"proj_layer.weight": "r d"}
# The projection's bias is there with add_bias=True only; the sizes in later versions only.
_OPTIONAL = {"proj_layer.bias": "r", "embed_dim": "", "interchange_dim": ""}

# What Subspace tolerates. Training in float32 stays below 1e-6.
_ORTHONORMAL = 1e-4


def convert(kind: str, tensors: Mapping[str, Tensor], act_fn: str | None = None) -> Intervention:
    """The intervention that computes what pyreft's class `kind` does with these tensors.

    Its parameters are float32, whatever was saved.

    Args:
        kind: the class's name, as in "LoreftIntervention".
        tensors: its state dict.
        act_fn: the name that was given to pyreft; the classes without an affine map have none.

    Raises:
        ValueError: unknown class; tensors that this class does not save, or of sizes that
            contradict each other; an `act_fn` that is unknown or for a class that has none.
    """
    if kind not in CLASSES:
        raise ValueError(f"unknown pyreft class {kind!r}; the known ones are {', '.join(CLASSES)}")
    known = CLASSES[kind]
    _check(kind, known.tensors, tensors)
    if act_fn is not None and not known.affine:
        raise ValueError(f"act_fn: pyreft's {kind} has none, got {act_fn!r}")
    wide = {name: tensor.float() for name, tensor in tensors.items()}
    return known.build(wide, act_fn or "linear")


def checked_coordinates(given: Sequence[int], count: int, what: str = "coordinates") -> list[int]:
    """Numbers of some of `count` coordinates, or of what else there is.

    Raises:
        ValueError: none, one twice, or what is no number from 0 to `count` - 1.
    """
    chosen = list(given)
    numbers = [int(i) for i in chosen if isinstance(i, Integral) and not isinstance(i, bool)]
    if not chosen or len(set(numbers) & set(range(count))) < len(chosen):
        raise ValueError(
            f"subspaces must be different numbers of its {count} {what}, 0 to {count - 1}, as "
            f"[0], got {chosen}"
        )
    return numbers


def part_of_loreft(tensors: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """The state dict of the LoreftIntervention that edits along some rows of this one.

    h + R_Sᵀ(f(Wh + b) − Rh)_S, with S the `rows`.

    Raises:
        ValueError: the tensors are not LoreftIntervention's, or `rows` are none of its rows.
    """
    _check("LoreftIntervention", CLASSES["LoreftIntervention"].tensors, tensors)
    chosen = checked_coordinates(rows, tensors["rotate_layer"].shape[1])
    return {
        "rotate_layer": tensors["rotate_layer"][:, chosen],
        "weight": tensors["weight"][chosen],
        "bias": tensors["bias"][chosen],
    }


def orthonormal_columns(
    original: Float[Tensor, "d r"], base: Float[Tensor, "d d"]
) -> Float[Tensor, "d r"]:
    """The matrix behind `torch.nn.utils.parametrizations.orthogonal`, from what it saves.

    base · Q(original): Q is a product of Householder reflections whose vectors stand below the
    diagonal, each column times its diagonal entry as an integer; for a square matrix it is the
    exponential of a skew-symmetric one. Computed in float64, so that it is orthonormal to the
    last digit of float32.
    """
    lower, start = original.double(), base.double()
    if lower.shape[0] == lower.shape[1]:
        lower = lower.tril()
        return (start @ torch.matrix_exp(lower - lower.T)).float()
    signs = lower.diagonal().int()
    vectors = lower.tril(-1)
    reflections = torch.linalg.householder_product(vectors, 2 / (1 + vectors.square().sum(0)))
    return (start @ (reflections * signs)).float()


def _loreft(saved: Mapping[str, Tensor], activation: str) -> Intervention:
    # The rotation is saved as it is; its W and b without the name of the layer that holds them.
    rows = saved["rotate_layer"].T
    value = {"value.weight": saved["weight"], "value.bias": saved["bias"]}
    if _error(rows) <= _ORTHONORMAL:
        return _filled(LoReFT(start=Subspace(rows), activation=activation), rows, value)
    _warn_free("LoreftIntervention", "NoReFT", rows)
    return _filled(NoReFT(start=_placeholder(rows), activation=activation), rows, value)


def _noreft(saved: Mapping[str, Tensor], activation: str) -> Intervention:
    rows = saved["proj_layer.weight"]
    offset = saved.get("proj_layer.bias")
    edit = NoReFT(start=_placeholder(rows), activation=activation, offset=offset is not None)
    value = _affine(saved)
    return _filled(edit, rows, value if offset is None else value | {"value.offset": offset})


def _consreft(saved: Mapping[str, Tensor], activation: str) -> Intervention:
    rows = _rotation(saved)
    edit = ConsReFT(start=Subspace(rows))
    return _filled(edit, rows, {"value.coordinates": saved["learned_source"]})


def _lobireft(saved: Mapping[str, Tensor], activation: str) -> Intervention:
    rows = _rotation(saved)
    edit = LobiReFT(start=Subspace(rows))
    return _filled(edit, rows, {"value.coordinates": saved["learned_source"]})


def _direft(saved: Mapping[str, Tensor], activation: str) -> Intervention:
    rows = _rotation(saved)
    edit = DiReFT(start=Subspace(rows), orthonormal=True, activation=activation)
    return _filled(edit, rows, _affine(saved))


def _nodireft(saved: Mapping[str, Tensor], activation: str) -> Intervention:
    rows = saved["proj_layer.weight"]
    edit = DiReFT(start=_placeholder(rows), activation=activation)
    return _filled(edit, rows, _affine(saved))


@dataclass(frozen=True)
class _Class:
    tensors: Mapping[str, str]
    """What it saves, with the axes of each: r the rank, d the width."""
    build: Callable[[Mapping[str, Tensor], str], Intervention]
    affine: bool = True


CLASSES: Mapping[str, _Class] = {
    "LoreftIntervention": _Class({"rotate_layer": "d r", "weight": "r d", "bias": "r"}, _loreft),
    "NoreftIntervention": _Class(_FREE | _LEARNED, _noreft),
    "ConsreftIntervention": _Class({"learned_source": "r"} | _PARAMETRIZED, _consreft, False),
    "LobireftIntervention": _Class({"learned_source": "r"} | _PARAMETRIZED, _lobireft, False),
    "DireftIntervention": _Class(_PARAMETRIZED | _LEARNED, _direft),
    "NodireftIntervention": _Class(_FREE | _LEARNED, _nodireft),
}
"""The classes that can be read, by name."""


def _check(kind: str, expected: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    optional = _OPTIONAL if kind != "LoreftIntervention" else {}
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected and name not in optional]
    if missing or unknown:
        raise ValueError(
            f"these are not the tensors that pyreft's {kind} saves: "
            f"missing {missing or 'none'}, unknown {unknown or 'none'}"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    axes = {**optional, **expected}
    rank = shapes[next(name for name, letters in expected.items() if letters == "r")]
    width = shapes[next(name for name, letters in expected.items() if letters in ("r d", "d r"))]
    # r ≤ d, so the larger side of the matrix is the width.
    sizes = {"r": rank[0] if rank else 0, "d": max(width, default=0)}
    if any(shapes[name] != tuple(sizes[a] for a in axes[name].split()) for name in shapes):
        raise ValueError(f"the tensors of pyreft's {kind} contradict each other: {shapes}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has values that are not finite")


def _affine(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "value.weight": saved["learned_source.weight"],
        "value.bias": saved["learned_source.bias"],
    }


def _rotation(saved: Mapping[str, Tensor]) -> Float[Tensor, "r d"]:
    rows = orthonormal_columns(*(saved[name] for name in _PARAMETRIZED)).T
    if _error(rows) > _ORTHONORMAL:
        raise ValueError(
            f"its rotation is not orthonormal (off by {_error(rows):.1e}), so it is none. Weight "
            "decay in pyreft's training does that: it shrinks the ones on the diagonal of "
            "`original`, which are then rounded to 0"
        )
    return rows


def _error(rows: Float[Tensor, "r d"]) -> float:
    return (rows @ rows.T - torch.eye(len(rows))).abs().max().item()


def _placeholder(rows: Float[Tensor, "r d"]) -> Subspace:
    # Overwritten at once; a start that is given leaves torch's random numbers alone.
    return Subspace(torch.eye(*rows.shape))


def _warn_free(kind: str, instead: str, rows: Float[Tensor, "r d"]) -> None:
    warnings.warn(
        f"the rotation of this {kind} is not orthonormal (off by {_error(rows):.1e}), as happens "
        "when pyreft trains on from a loaded folder or with weight decay. It is loaded as "
        f"{instead}, which computes the same and is no projection.",
        stacklevel=6,
    )


def _filled(
    edit: Intervention, rows: Float[Tensor, "r d"], value: Mapping[str, Tensor]
) -> Intervention:
    edit.load_state_dict({"rows.matrix": rows, **value})
    return edit
