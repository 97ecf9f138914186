"""RED: every component of h is scaled and shifted, both learned."""

import torch
from torch import nn

from reft_interp.interventions.edits import WholeSpace


class RED(WholeSpace):
    """Representation editing: s ⊙ h + b, with s and b learned.

    Wu et al. 2024, "Advancing Parameter Efficiency in Fine-tuning via Representation Editing"
    (arXiv:2402.15179), equation 2; there at the output of the feed-forward layer of every block
    (`mlp_out`), on every token. It starts as the identity, s = 1 and b = 0.

    Args:
        width: d, the width of the activations; without it a template.
        dtype: of the parameters.
    """

    def __init__(self, width: int | None = None, *, dtype: torch.dtype = torch.float32):
        super().__init__(width, {"dtype": dtype})
        if width is not None:
            self.scale = nn.Parameter(torch.ones(width, dtype=dtype))
            self.bias = nn.Parameter(torch.zeros(width, dtype=dtype))

    def forward(self, base, source=None):
        self.check_input(base, source)
        work = torch.promote_types(base.dtype, self.scale.dtype)
        return (base.to(work) * self.scale.to(work) + self.bias.to(work)).to(base.dtype)
