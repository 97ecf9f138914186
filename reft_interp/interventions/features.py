"""Features of a sparse autoencoder: which of them an interchange swaps.

What the autoencoder does not reconstruct stays as it was: only the change of the chosen features is
added, along their decoder directions.
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reft_interp.interventions.edits import Add
from reft_interp.interventions.masks import LearnedMask, SigmoidMask
from reft_interp.interventions.rows import GivenRows
from reft_interp.interventions.values import Value
from reft_interp.shapes import check_shape
from reft_interp.subspace import Subspace


class FeatureEncoder(nn.Module):
    """act((h − c) W + b), frozen: how active each feature is.

    Args:
        weight: W.
        bias: b; zero by default.
        input_bias: c; zero by default.
        threshold: below it (or at it) a feature is 0: JumpReLU (Rajamanoharan et al. 2024,
            arXiv:2407.14435); plain ReLU by default.
        k: only the k largest of a token are kept, and of these the positive: TopK (Gao et al. 2024,
            arXiv:2406.04093); all by default.

    Raises:
        ValueError: a tensor of another shape, threshold and k together, or k not between 1 and
            the number of features.
    """

    weight: Tensor
    bias: Tensor
    input_bias: Tensor
    threshold: Tensor | None

    def __init__(
        self,
        weight: Float[Tensor, "d n"],
        bias: Float[Tensor, "n"] | None = None,
        *,
        input_bias: Float[Tensor, "d"] | None = None,
        threshold: Float[Tensor, "n"] | None = None,
        k: int | None = None,
    ):
        super().__init__()
        check_shape("weight", weight, ("d", "n"), "width by features")
        width, count = weight.shape
        for name, given, size, why in (
            ("bias", bias, count, "one for each feature"),
            ("input_bias", input_bias, width, "the width of the activations"),
            ("threshold", threshold, count, "one for each feature"),
        ):
            if given is not None:
                check_shape(name, given, (size,), why)
        if k is not None and threshold is not None:
            raise ValueError(
                f"threshold and k are two activations: give one of them, got k={k} and a threshold "
                f"of shape {tuple(threshold.shape)}"
            )
        if k is not None and not 1 <= k <= count:
            raise ValueError(f"k must be between 1 and {count}, the features, got {k}")
        self.k = k
        held = {
            "weight": weight,
            "bias": weight.new_zeros(count) if bias is None else bias,
            "input_bias": weight.new_zeros(width) if input_bias is None else input_bias,
            "threshold": threshold,
        }
        for name, tensor in held.items():
            self.register_buffer(name, None if tensor is None else tensor.detach().clone())

    def forward(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """The activation of each feature."""
        before = (h - self.input_bias.to(h.dtype)) @ self.weight.to(h.dtype)
        before = before + self.bias.to(h.dtype)
        active = before.relu()
        if self.threshold is not None:
            return active * (before > self.threshold.to(h.dtype))
        if self.k is not None:
            held = active.topk(self.k, dim=-1)
            return torch.zeros_like(active).scatter(-1, held.indices, held.values)
        return active


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """A dictionary of features of activations: an encoder, and a direction for each feature.

    `interop.load_sae` reads one that sae-lens saved.

    Args:
        encoder: how active each feature is.
        decoder: the direction of each.
        bias: what a reconstruction adds; zero by default.

    Raises:
        ValueError: encoder, decoder and bias are of another width or number of features.
    """

    encoder: FeatureEncoder
    decoder: Float[Tensor, "n d"]
    bias: Float[Tensor, "d"] | None = None

    def __post_init__(self) -> None:
        width, count = self.encoder.weight.shape
        check_shape("decoder", self.decoder, (count, width), "the encoder's the other way round")
        if self.bias is not None:
            check_shape("bias", self.bias, (width,), "the width of the activations")

    @property
    def features(self) -> int:
        """How many there are."""
        return len(self.decoder)

    def reconstruct(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """What the features say of activations."""
        found = self.encoder(h) @ self.decoder.to(h.dtype)
        return found if self.bias is None else found + self.bias.to(h.dtype)


class FeatureChange(Value):
    """v = m ⊙ (enc(s) − enc(h)): the change of the features that a mask chooses.

    Args:
        encoder: gives the features.
        mask: gives m, one number a feature.
    """

    def __init__(self, encoder: FeatureEncoder, mask: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.mask = mask

    def forward(self, h, source, rows):
        assert source is not None  # Intervention.check_input lets none through
        return self.mask().to(h.dtype) * (self.encoder(source) - self.encoder(h))

    def reads(self, subtracted):
        return self.encoder.weight.T


class FeatureInterchange(LearnedMask, Add):
    """h + Dᵀ(m ⊙ (enc(s) − enc(h))): features of a sparse autoencoder are swapped or are not.

    Desiderata-based masking (Davies et al. 2023, arXiv:2307.03637) over features, as MIB compares
    it (Mueller et al. 2025, arXiv:2504.13151); only the mask is learned. The reconstruction error
    of h stays in place.

    Args:
        autoencoder: encoder and D.
        sparsity: the loss grows by this for a mask that is all ones.
        dtype: of the mask's logits.

    Raises:
        ValueError: negative sparsity.
    """

    needs_source = True

    def __init__(
        self,
        autoencoder: SparseAutoencoder,
        *,
        sparsity: int | float = 0.1,
        dtype: torch.dtype = torch.float32,
    ):
        # Its own: whoever converts or moves this intervention leaves the autoencoder as it was.
        encoder = deepcopy(autoencoder.encoder)
        super().__init__(
            GivenRows(autoencoder.decoder),
            FeatureChange(encoder, SigmoidMask(autoencoder.features, dtype=dtype)),
            {
                "features": autoencoder.features,
                "k": encoder.k,
                "jumps": encoder.threshold is not None,
                "sparsity": sparsity,
                "dtype": dtype,
            },
        )
        self._set_sparsity(sparsity)

    @classmethod
    def _of_shape(cls, *, features, k, jumps, width, **options):
        encoder = FeatureEncoder(
            torch.zeros(width, features), threshold=torch.zeros(features) if jumps else None, k=k
        )
        return cls(SparseAutoencoder(encoder, torch.zeros(features, width)), **options)

    @property
    def subspace(self) -> Subspace:
        """The span of the chosen features' directions.

        Raises:
            ValueError: none is chosen, or their directions are all zero.
        """
        spanned = Subspace.spanned_by(self._chosen_of(self.rows().detach()))
        if spanned is None:
            raise ValueError("FeatureInterchange writes nothing: its directions are all zero")
        return spanned

    @property
    def reads(self) -> Subspace | None:
        """The span of what the chosen features' encoders look at; None where none is chosen."""
        read = self.value.reads(None)
        if read is None or not self.chosen.any():
            return None
        return Subspace.spanned_by(read[self.chosen])
