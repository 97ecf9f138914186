"""Random subspaces as controls: what any subspace of that rank would give."""

from reft_interp.subspace import Subspace


def control_subspaces(width: int, rank: int, draws: int, *, seed: int = 0) -> list[Subspace]:
    """Uniformly drawn subspaces, none of which a search with a small seed began at.

    Args:
        width: of the space.
        rank: of each subspace.
        draws: how many.
        seed: the same seed gives the same subspaces.

    Raises:
        ValueError: no draws; a rank that does not fit the width.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    # `fit_das(seed=s)` begins at Subspace.random(seed=s): controls stay far from such seeds.
    first = 1_000_000 * (seed + 1)
    return [Subspace.random(width, rank, seed=first + i) for i in range(draws)]
