"""An interchange in coordinates that are no linear function of h: a small invertible network.

Free maps reach full accuracy on networks that were never trained (Sutter et al. 2025,
arXiv:2507.08802): what this finds says little without its score on an untrained model, which
`compare_methods` puts beside it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reft_interp.interventions.edits import WholeSpace
from reft_interp.interventions.rows import OrthonormalRows
from reft_interp.subspace import Subspace, check_rank


class Coupling(nn.Module):
    """x ↦ x + W₂ gelu(W₁y + b), where y is kept, so that it can be undone; W₂ starts at 0.

    Args:
        kept: width of y.
        moved: width of x.
        hidden: width between.
        dtype: of the weights.
    """

    def __init__(self, kept: int, moved: int, hidden: int, *, dtype: torch.dtype):
        super().__init__()
        self.into = nn.Linear(kept, hidden, dtype=dtype)
        # No bias: what is added to base and source alike, the way back takes away.
        self.out = nn.Linear(hidden, moved, bias=False, dtype=dtype)
        nn.init.zeros_(self.out.weight)

    def forward(self, y: Float[Tensor, "*batch kept"]) -> Float[Tensor, "*batch moved"]:
        """What is added to x."""
        into, bias, out = (
            one.to(y.dtype) for one in (self.into.weight, self.into.bias, self.out.weight)
        )
        return nn.functional.gelu(y @ into.T + bias) @ out.T


class NonlinearInterchange(WholeSpace):
    """Swap the first coordinates of φ(h) for those of φ(s), and go back: φ⁻¹(φ(s)₁..ᵣ, φ(h)ᵣ₊₁..).

    φ is a rotation and then additive couplings of its two halves in turn (Dinh et al. 2015,
    arXiv:1410.8516), which are undone exactly. Without couplings it is a distributed interchange,
    and that is where training starts.

    Args:
        rank: r, how many coordinates are swapped.
        width: d, the width of the activations; without it a template.
        hidden: width of the couplings' networks.
        depth: how many couplings.
        dtype: of the parameters.

    Raises:
        ValueError: rank, hidden or depth below 1, a rank above the width, or a width of 1.
    """

    needs_source = True

    def __init__(
        self,
        rank: int,
        width: int | None = None,
        *,
        hidden: int = 64,
        depth: int = 4,
        dtype: torch.dtype = torch.float32,
    ):
        rank = check_rank(rank)
        for name, size in (("hidden", hidden), ("depth", depth)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        super().__init__(width, {"rank": rank, "hidden": hidden, "depth": depth, "dtype": dtype})
        self.rank = rank
        if width is None:
            return
        if not rank <= width or width < 2:
            raise ValueError(
                f"rank must be between 1 and {width} (the width, 2 or more), got {rank}"
            )
        seed = int(torch.randint(2**31, ()))
        self.rotation = OrthonormalRows(Subspace.random(width, width, seed=seed), dtype=dtype)
        self._halves = width - width // 2, width // 2
        first, second = self._halves
        self.couplings = nn.ModuleList(
            # The first half moves the second, then the second the first, and so on.
            Coupling(first, second, hidden, dtype=dtype)
            if i % 2 == 0
            else Coupling(second, first, hidden, dtype=dtype)
            for i in range(depth)
        )

    def forward(self, base, source=None):
        self.check_input(base, source)
        assert source is not None  # check_input let none through
        rows = self.rotation()
        work = torch.promote_types(base.dtype, rows.dtype)
        rows = rows.to(work)
        ours, theirs = (self._there(h.to(work) @ rows.T) for h in (base, source))
        mixed = torch.cat([theirs[..., : self.rank], ours[..., self.rank :]], -1)
        # As a change of h, so that a source that holds the same changes nothing at all.
        change = self._back(mixed) - self._back(ours)
        return (base.to(work) + change @ rows).to(base.dtype)

    def _there(self, x: Tensor) -> Tensor:
        halves = list(x.split(self._halves, -1))
        for i, coupling in enumerate(self.couplings):
            kept, moved = (0, 1) if i % 2 == 0 else (1, 0)
            halves[moved] = halves[moved] + coupling(halves[kept])
        return torch.cat(halves, -1)

    def _back(self, x: Tensor) -> Tensor:
        halves = list(x.split(self._halves, -1))
        for i, coupling in reversed(list(enumerate(self.couplings))):
            kept, moved = (0, 1) if i % 2 == 0 else (1, 0)
            halves[moved] = halves[moved] - coupling(halves[kept])
        return torch.cat(halves, -1)
