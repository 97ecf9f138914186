"""Where in each row the part lies that edits can change: the changed region.

It begins at the lowest edited layer and at the first edited token, and ends where nothing looks
any more. `frozen` keeps what lies outside, `replaying` runs what lies inside.
"""

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from reft_interp.encoding import TokenizedBatch
from reft_interp.selector import Positions
from reft_interp.sites import Site


def first_block(site: Site, layers: int) -> int:
    """The first block whose input or inside an edit at `site` changes.

    What leaves a block is what enters the next: an edit there begins with that one, but for the
    last block.
    """
    return min(site.layer + (site.component == "resid_post"), layers - 1)


def at_entrance(site: Site, layers: int) -> Site:
    """The same place, named by the first block that an edit there changes."""
    block = first_block(site, layers)
    return site if block == site.layer else Site("resid_pre", block)


def first_columns(positions: Sequence[Positions], batch: TokenizedBatch) -> Int[Tensor, "batch"]:
    """For each row where its region begins: at the first token that any edit touches, and at the
    latest at the prompt's last token, where the answer is predicted."""
    first = batch.prompt_end - 1
    for at in positions:
        first = first.scatter_reduce(0, at.rows, at.columns, reduce="amin")
    return first


def end_columns(positions: Sequence[Positions], batch: TokenizedBatch) -> Int[Tensor, "batch"]:
    """For each row one past the last token that has to run: the answer's last token predicts
    nothing that is looked at, so it does not, unless it is edited."""
    end = (batch.answer_end - 1).maximum(batch.prompt_end)
    for at in positions:
        end = end.scatter_reduce(0, at.rows, at.columns + 1, reduce="amax")
    return end
