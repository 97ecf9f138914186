"""Several trained edits in separate parts of one orthonormal basis: none writes where another does.

pyreft's composition splits one intervention into subspaces and trains each on data of its own.
Here each part is an intervention, to be placed, switched, scored and saved like any other.
"""

import torch

from reft_interp.interventions.edits import Add, Intervention, Set
from reft_interp.interventions.rows import OrthonormalRows, PartOfRows
from reft_interp.interventions.values import Affine
from reft_interp.subspace import Subspace


def orthogonal_parts(
    *templates: Intervention, width: int, outside: Subspace | None = None, seed: int = 0
) -> list[Intervention]:
    """Interventions whose subspaces are and stay orthogonal to each other while they train.

    Together, on rows that name the one that edits them:

        formal, french = orthogonal_parts(LoReFT(4), LoReFT(4), width=site.width(model))
        both = IntervenedModel(model, [
            Placement(formal, site, "f3+l3", name="formal"),
            Placement(french, site, "f3+l3", name="french"),
        ])
        train(both, rows)  # {"prompt": ..., "answer": ..., "edits": "formal"}

    Or one after the other, the second outside of what the first has found:

        formal = fit_reft(model, formal_rows, LoReFT(4), site)
        [french] = orthogonal_parts(
            LoReFT(4), width=site.width(model), outside=formal.subspace
        )
        french = fit_reft(model, french_rows, french, site)

    Where both edit a token, the later placement leaves the coordinates that the earlier one wrote
    as they are, but reads h as the earlier one left it. `LinearCombination([formal, french],
    [1, 1])` lets both read the same h; then each part holds exactly what its edit alone gives.

    The parts share one parameter, in which a later part is what an earlier one leaves of it: train
    them together, or each outside of the others. A copy or a saved part is free of the others:
    training it on may leave its place.

    Args:
        templates: with orthonormal rows, as `LoReFT(rank=4)`, `ConsReFT`, `LobiReFT`,
            `DiReFT(4, orthonormal=True)`.
        width: d, of the activations.
        outside: what all of them stay orthogonal to.
        seed: of where they start.

    Raises:
        ValueError: none given; one that has a width already, or no orthonormal rows; ranks that
            sum to more than there is room for; `outside` of another width.
    """
    if not templates:
        raise ValueError("templates must hold at least one intervention, got none")
    for one in templates:
        if one.width is not None or not isinstance(one, Set | Add):
            raise ValueError(
                f"templates must be like LoReFT(rank=4), without a width, got {type(one).__name__}"
                f" with width {one.width}"
            )
    if outside is not None and outside.width != width:
        raise ValueError(f"outside lives in R^{outside.width}, but width is {width}")
    ranks = [one.arguments()["rank"] for one in templates]
    room = width - (0 if outside is None else outside.rank)
    if sum(ranks) > room:
        raise ValueError(f"the ranks {ranks} sum to {sum(ranks)}, but there is room for {room}")
    start = Subspace.random(width, sum(ranks), seed=seed)
    if outside is not None:
        start = Subspace.from_matrix(outside.to("cpu").remove(start.basis))
    whole = OrthonormalRows(start, outside=outside)
    found, first = [], 0
    for template, rank in zip(templates, ranks, strict=True):
        part = slice(first, first + rank)
        built = template.from_arguments(
            template.arguments() | {"width": width, "start": Subspace(start.basis[part])}
        )
        assert isinstance(built, Set | Add)  # so was the template
        if not isinstance(built.rows, OrthonormalRows):
            raise ValueError(
                f"templates must have orthonormal rows, got {type(built).__name__}, whose are free"
            )
        built.rows = PartOfRows(whole, part.start, part.stop)
        if isinstance(built, Set) and isinstance(built.value, Affine):
            with torch.no_grad():  # it starts as the identity, at the rows as they are used
                built.value.weight.copy_(built.rows())
        found.append(built)
        first = part.stop
    return found
