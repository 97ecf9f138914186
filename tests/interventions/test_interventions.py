"""Every intervention against NumPy, one token and one line at a time, and what all have in common.

What one family alone promises is in the files beside this one.
"""

import copy
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import reft_interp.interventions as interventions
from reft_interp.interventions import (
    INTERVENTIONS,
    RED,
    BoundlessInterchange,
    Clamp,
    ConsReFT,
    DiReFT,
    DistributedInterchange,
    FeatureEncoder,
    FeatureInterchange,
    Interchange,
    Intervention,
    LinearCombination,
    LobiReFT,
    LoReFT,
    MaskedInterchange,
    MeanAblation,
    NodiReFT,
    NonlinearInterchange,
    NoReFT,
    PlaceboInterchange,
    ResampleAblation,
    SparseAutoencoder,
    VectorAddition,
    ZeroAblation,
    build_intervention,
)
from reft_interp.subspace import Subspace

D, R = 8, 3
WIDE = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = WIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=WIDE).to(dtype)


def space(dtype: torch.dtype = WIDE) -> Subspace:
    return Subspace.random(D, R, seed=5, dtype=dtype)


def dictionary(dtype: torch.dtype) -> SparseAutoencoder:
    encoder = FeatureEncoder(
        draw(D, 20, seed=1, dtype=dtype),
        draw(20, seed=2, dtype=dtype),
        input_bias=draw(D, seed=3, dtype=dtype),
    )
    return SparseAutoencoder(encoder, draw(20, D, seed=4, dtype=dtype))


@dataclass
class Tensors:
    """What an intervention holds, as NumPy arrays: the letters of the formulas."""

    module: Intervention

    def _get(self, name: str) -> np.ndarray:
        return self.module.state_dict()[name].detach().double().numpy()

    def __getitem__(self, i: int) -> "Tensors":
        """Those of one of the edits that are combined."""
        return Tensors(self.module.get_submodule(f"interventions.{i}"))  # pyright: ignore[reportArgumentType]

    @property
    def given(self) -> np.ndarray:
        return self._get("rows.matrix")

    @property
    def R(self) -> np.ndarray:
        return self.orthonormal("rows.matrix")

    def orthonormal(self, name: str) -> np.ndarray:
        """By Gram-Schmidt, row after row; the library takes a Cholesky factor."""
        rows: list[np.ndarray] = []
        for row in self._get(name):
            for _ in range(2):  # twice is enough for float64
                for done in rows:
                    row = row - (row @ done) * done
            rows.append(row / np.linalg.norm(row))
        return np.array(rows)

    @property
    def W(self) -> np.ndarray:
        return self._get("value.weight")

    @property
    def b(self) -> np.ndarray:
        return self._get("value.bias")

    @property
    def offset(self) -> np.ndarray:
        return self._get("value.offset")

    @property
    def c(self) -> np.ndarray:
        return self._get("value.coordinates")

    @property
    def scale(self) -> np.ndarray:
        return self._get("scale")

    @property
    def shift(self) -> np.ndarray:
        return self._get("bias")

    @property
    def logits(self) -> np.ndarray:
        return self._get("value.mask.logits")

    @property
    def boundary(self) -> np.ndarray:
        ahead = D * sigmoid(self._get("value.mask.logit")) - (np.arange(D) + 0.5)
        return sigmoid(ahead / (D / 16))

    @property
    def inside(self) -> np.ndarray:
        return self._get("value.rows")

    def features(self, h: np.ndarray) -> np.ndarray:
        weight, bias, c = (
            self._get(f"value.encoder.{name}") for name in ("weight", "bias", "input_bias")
        )
        return relu(weight.T @ (h - c) + bias)

    def coupling(self, i: int, y: np.ndarray) -> np.ndarray:
        w1, b, w2 = (
            self._get(f"couplings.{i}.{name}")
            for name in ("into.weight", "into.bias", "out.weight")
        )
        return w2 @ np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in w1 @ y + b])


Formula = Callable[[Tensors, np.ndarray, np.ndarray], np.ndarray]


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0)


def swapped_between_couplings(t: Tensors, h: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Two couplings of halves of four: there with both, the first two swapped, and back."""
    turned = t.orthonormal("rotation.matrix")
    there = []
    for x in (turned @ h, turned @ s):
        first, second = x[:4], x[4:]
        second = second + t.coupling(0, first)
        first = first + t.coupling(1, second)
        there.append((first, second))
    (first, second), (other, _) = there
    first = np.concatenate([other[:2], first[2:]])
    first = first - t.coupling(1, second)
    second = second - t.coupling(0, first)
    return turned.T @ np.concatenate([first, second])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@dataclass
class Case:
    """How to build an intervention whose parameters are of one dtype, and what it computes."""

    build: Callable[[torch.dtype], Intervention]
    formula: Formula


CASES = {
    "Interchange": Case(lambda dtype: Interchange(D), lambda t, h, s: s),
    "DistributedInterchange": Case(
        lambda dtype: DistributedInterchange(space(dtype), dtype=dtype),
        lambda t, h, s: h + t.given.T @ (t.given @ s - t.given @ h),
    ),
    "DistributedInterchange, trained": Case(
        lambda dtype: DistributedInterchange(space(dtype), trainable=True, dtype=dtype),
        lambda t, h, s: h + t.R.T @ (t.R @ s - t.R @ h),
    ),
    "MaskedInterchange, trained": Case(
        lambda dtype: MaskedInterchange(space(dtype), dtype=dtype),
        lambda t, h, s: h + t.given.T @ (sigmoid(t.logits) * (t.given @ s - t.given @ h)),
    ),
    "BoundlessInterchange, trained": Case(
        lambda dtype: BoundlessInterchange(Subspace.random(D, D, seed=5, dtype=dtype), dtype=dtype),
        lambda t, h, s: h + t.R.T @ (t.boundary * (t.R @ s - t.R @ h)),
    ),
    "FeatureInterchange, trained": Case(
        lambda dtype: FeatureInterchange(dictionary(dtype), dtype=dtype),
        lambda t, h, s: h + t.given.T @ (sigmoid(t.logits) * (t.features(s) - t.features(h))),
    ),
    "NonlinearInterchange, trained": Case(
        lambda dtype: NonlinearInterchange(2, D, hidden=5, depth=2, dtype=dtype),
        swapped_between_couplings,
    ),
    "PlaceboInterchange": Case(
        lambda dtype: PlaceboInterchange(space(dtype), Subspace.random(D, R, seed=6, dtype=dtype)),
        lambda t, h, s: h + t.given.T @ (t.inside @ s - t.inside @ h),
    ),
    "LoReFT": Case(
        lambda dtype: LoReFT(R, D, dtype=dtype),
        lambda t, h, s: h + t.R.T @ (t.W @ h + t.b - t.R @ h),
    ),
    "LoReFT, relu": Case(
        lambda dtype: LoReFT(R, D, activation="relu", dtype=dtype),
        lambda t, h, s: h + t.R.T @ (relu(t.W @ h + t.b) - t.R @ h),
    ),
    "NoReFT": Case(
        lambda dtype: NoReFT(R, D, dtype=dtype),
        lambda t, h, s: h + t.given.T @ (t.W @ h + t.b - t.given @ h),
    ),
    "NoReFT, tanh and offset": Case(
        lambda dtype: NoReFT(R, D, activation="tanh", offset=True, dtype=dtype),
        lambda t, h, s: h + t.given.T @ (np.tanh(t.W @ h + t.b) - (t.given @ h + t.offset)),
    ),
    "ConsReFT": Case(
        lambda dtype: ConsReFT(R, D, dtype=dtype),
        lambda t, h, s: h + t.R.T @ (t.c - t.R @ h),
    ),
    "DiReFT": Case(
        lambda dtype: DiReFT(R, D, dtype=dtype),
        lambda t, h, s: h + t.given.T @ (t.W @ h + t.b),
    ),
    "DiReFT, orthonormal": Case(
        lambda dtype: DiReFT(R, D, orthonormal=True, dtype=dtype),
        lambda t, h, s: h + t.R.T @ (t.W @ h + t.b),
    ),
    "DiReFT, sigmoid": Case(
        lambda dtype: DiReFT(R, D, activation="sigmoid", dtype=dtype),
        lambda t, h, s: h + t.given.T @ sigmoid(t.W @ h + t.b),
    ),
    "LobiReFT": Case(
        lambda dtype: LobiReFT(R, D, dtype=dtype),
        lambda t, h, s: h + t.R.T @ t.c,
    ),
    "RED, trained": Case(lambda dtype: RED(D, dtype=dtype), lambda t, h, s: t.scale * h + t.shift),
    "VectorAddition": Case(
        lambda dtype: VectorAddition(draw(D, dtype=dtype), strength=-2.5),
        lambda t, h, s: h - 2.5 * t.given[0],
    ),
    "Clamp": Case(
        lambda dtype: Clamp(space(dtype), draw(R, seed=1, dtype=dtype)),
        lambda t, h, s: h + t.given.T @ (t.c - t.given @ h),
    ),
    "ZeroAblation": Case(
        lambda dtype: ZeroAblation(space(dtype)),
        lambda t, h, s: h - t.given.T @ (t.given @ h),
    ),
    "MeanAblation": Case(
        lambda dtype: MeanAblation(space(dtype), draw(D, seed=1, dtype=dtype)),
        lambda t, h, s: h + t.given.T @ (t.given @ draw(D, seed=1).numpy() - t.given @ h),
    ),
    "ResampleAblation": Case(
        lambda dtype: ResampleAblation(space(dtype)),
        lambda t, h, s: h + t.given.T @ (t.given @ s - t.given @ h),
    ),
    "LinearCombination, trained": Case(
        lambda dtype: LinearCombination(
            [LoReFT(R, D, activation="relu", dtype=dtype), DiReFT(R, D, dtype=dtype)], [-1, 0.3]
        ),
        lambda t, h, s: (
            h
            - t[0].R.T @ (relu(t[0].W @ h + t[0].b) - t[0].R @ h)
            + 0.3 * t[1].given.T @ (t[1].W @ h + t[1].b)
        ),
    ),
    "LinearCombination, of an interchange": Case(
        lambda dtype: LinearCombination([DistributedInterchange(space(dtype), dtype=dtype)], [1.5]),
        lambda t, h, s: h + 1.5 * t[0].given.T @ (t[0].given @ s - t[0].given @ h),
    ),
}
NAMES = list(CASES)
LEARNED = [name for name in NAMES if "ReFT" in name or "trained" in name]
OF_SOURCE = [name for name in NAMES if "nterchange" in name or "Resample" in name]


def trained(name: str, dtype: torch.dtype = WIDE, seed: int = 3) -> Intervention:
    """An intervention whose parameters are anywhere but where they start."""
    torch.manual_seed(seed)
    edit = CASES[name].build(dtype)
    with torch.no_grad():
        for parameter in edit.parameters():
            parameter.normal_()
    return edit


def apply(edit: Intervention, base: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return edit(base, source if edit.needs_source else None)


def by_hand(name: str, edit: Intervention, base: torch.Tensor, source: torch.Tensor):
    formula, tensors = CASES[name].formula, Tensors(edit)
    tokens = [
        formula(tensors, h, s)
        for h, s in zip(
            base.double().reshape(-1, D).numpy(),
            source.double().reshape(-1, D).numpy(),
            strict=True,
        )
    ]
    return torch.from_numpy(np.array(tokens)).reshape(base.shape)


def test_every_class_is_in_the_list_and_has_a_case():
    public = [getattr(interventions, name) for name in interventions.__all__]
    classes = {x for x in public if inspect.isclass(x) and issubclass(x, Intervention)}
    classes -= {Intervention}
    assert set(INTERVENTIONS.values()) == classes
    assert {name.split(",")[0] for name in CASES} == set(INTERVENTIONS)
    assert all(INTERVENTIONS[name].__name__ == name for name in INTERVENTIONS)
    assert NodiReFT is DiReFT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(D,), (4, D), (2, 5, D)])
def test_the_edit_is_its_formula(name, shape):
    base, source = draw(*shape, seed=10), draw(*shape, seed=11)
    edit = trained(name)
    with torch.no_grad():
        edited = apply(edit, base, source)
    expected = by_hand(name, edit, base, source)
    assert_close(edited, expected, rtol=0, atol=1e-10)
    assert (edited - base).abs().max() > 0.1  # it does something
    if not edit.needs_source:
        return
    assert not torch.allclose(edited, edit(base, source.flip(-1)))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_do_not_see_each_other(name):
    base, source = draw(6, D), draw(6, D, seed=1)
    edit = trained(name)
    whole = apply(edit, base, source)
    alone = torch.stack([apply(edit, b, s) for b, s in zip(base, source, strict=True)])
    assert_close(whole, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_half_precision_model_gets_the_exact_edit_rounded_once(name):
    base = draw(200, D, seed=10, dtype=torch.bfloat16)
    source = draw(200, D, seed=11, dtype=torch.bfloat16)
    edit = trained(name, torch.float32)
    edited = apply(edit, base, source)
    assert edited.dtype == torch.bfloat16
    exact = by_hand(name, edit, base, source)
    # bfloat16 has 8 significant bits: rounding once is off by 2^-9 of the next power of two,
    # at most 2^-8 of the number. 2e-5 is what float32 leaves of numbers of size 10.
    assert ((edited.double() - exact).abs() <= 2**-8 * exact.abs() + 2e-5).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_model(name, dtype):
    base, source = draw(2, D, dtype=dtype), draw(2, D, seed=1, dtype=dtype)
    assert apply(trained(name, torch.float32), base, source).dtype == dtype


@pytest.mark.parametrize("name", OF_SOURCE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_source_that_holds_the_same_changes_nothing_at_all(name, dtype):
    base = 100 * draw(50, D, dtype=dtype)
    for parameters in (torch.float32, torch.float64):
        assert torch.equal(trained(name, parameters)(base, base.clone()), base)


@pytest.mark.parametrize("name", LEARNED)
def test_the_gradient_reaches_every_parameter(name):
    edit = trained(name)
    assert len(list(edit.parameters())) > 0
    base, source = draw(4, D).requires_grad_(), draw(4, D, seed=1).requires_grad_()
    apply(edit, base, source).square().sum().backward()
    reached = [*edit.parameters(), base, *([source] if edit.needs_source else [])]
    for tensor in reached:
        assert tensor.grad is not None and tensor.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEARNED])
def test_what_is_given_is_not_trained(name):
    assert list(trained(name).parameters()) == []


@pytest.mark.parametrize("name", LEARNED)
def test_the_gradient_is_that_of_the_formula(name):
    edit, base, source = trained(name), draw(2, D), draw(2, D, seed=1)
    names = [n for n, _ in edit.named_parameters()]

    def function(*parameters: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, parameters, strict=True))
        arguments = (base, source) if edit.needs_source else (base,)
        return torch.func.functional_call(edit, given, arguments)

    at = tuple(p.detach().clone().requires_grad_() for p in edit.parameters())
    assert torch.autograd.gradcheck(function, at)


# Saved and built again


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_intervention_is_rebuilt_from_its_json_and_its_tensors(name, dtype, tmp_path):
    edit = trained(name, dtype)
    save_file(edit.state_dict(), str(tmp_path / "edit.safetensors"))
    arguments = json.loads(json.dumps(edit.arguments()))
    kind = name.split(",")[0]

    rebuilt = build_intervention(kind, arguments)
    base, source = draw(5, D), draw(5, D, seed=1)
    if rebuilt.state_dict():  # the whole-vector interchange has no tensors
        assert not torch.allclose(apply(rebuilt, base, source), apply(edit, base, source))
    rebuilt.load_state_dict(load_file(str(tmp_path / "edit.safetensors")), assign=True)

    assert type(rebuilt) is type(edit)
    for key, tensor in edit.state_dict().items():
        assert rebuilt.state_dict()[key].dtype == tensor.dtype
        assert torch.equal(rebuilt.state_dict()[key], tensor)
    # Loaded tensors are aligned otherwise in memory, and sums may go in another order.
    expected = apply(edit, base, source)
    assert_close(apply(rebuilt, base, source), expected, rtol=0, atol=1e-12)
    assert rebuilt.arguments() == edit.arguments()
    trainable = {n: p.requires_grad for n, p in edit.named_parameters()}
    assert {n: p.requires_grad for n, p in rebuilt.named_parameters()} == trainable


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_an_intervention_of_its_own(name):
    edit = trained(name)
    twin = copy.deepcopy(edit)
    base, source = draw(5, D), draw(5, D, seed=1)
    assert torch.equal(apply(twin, base, source), apply(edit, base, source))
    tensors = dict(edit.state_dict())
    for key, tensor in twin.state_dict().items():
        assert tensor.data_ptr() != tensors[key].data_ptr()


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown intervention 'LoRA'; .*Interchange, .*LoReFT"):
        build_intervention("LoRA", {"width": 8})


@pytest.mark.parametrize("name", NAMES)
def test_the_subspace_survives_half_precision(name):
    # A given basis that was rounded to bfloat16 is orthonormal no more; what is used is.
    exact = trained(name)
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    assert rounded.subspace.rank == exact.subspace.rank
    assert rounded.subspace.principal_angles(exact.subspace).max() < 2  # degrees


# Input that does not fit


@pytest.mark.parametrize("name", NAMES)
def test_input_that_does_not_fit_is_refused(name):
    edit, kind = trained(name), name.split(",")[0]
    base = draw(4, D)
    with pytest.raises(ValueError, match=rf"{kind}: activations are 7 wide, .* R\^8.*another"):
        apply(edit, draw(4, 7), draw(4, 7))
    if edit.needs_source:
        with pytest.raises(ValueError, match=f"{kind} needs a source"):
            edit(base)
        with pytest.raises(ValueError, match=rf"{kind}: source has shape \(3, 8\), base \(4, 8\)"):
            edit(base, draw(3, D))
    else:
        with pytest.raises(ValueError, match=f"{kind} takes no source"):
            edit(base, draw(4, D))


@pytest.mark.parametrize("name", NAMES)
def test_an_intervention_stays_at_the_width_that_it_was_made_for(name):
    edit = trained(name)
    assert edit.for_width(D) is edit
    message = f"{name.split(',')[0]} edits activations 8 wide, but they are 16 wide"
    with pytest.raises(ValueError, match=message):
        edit.for_width(16)
