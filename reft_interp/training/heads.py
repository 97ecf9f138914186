"""What turns one hidden state of a frozen model into the scores of classes.

Next door: `classifier` decides which state that is, and trains nothing itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SPREAD = 0.02  # transformers' initializer_range, with which its heads begin


class DenseHead(nn.Module):
    """Dropout, a dense layer, tanh, dropout, and a projection: RoBERTa's classification head.

    Liu et al. 2019 (arXiv:1907.11692), as transformers has it and Wu et al. 2024 train it beside
    LoReFT. It begins as transformers begins it: normal weights of deviation 0.02, biases zero.

    Args:
        width: of the hidden state.
        outputs: how many numbers it gives.
        dropout: probability, in training.

    Raises:
        ValueError: a dropout below 0, or of 1 and above.
    """

    def __init__(self, width: int, outputs: int, *, dropout: float | int = 0.1):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, outputs)
        self.dropout = nn.Dropout(_checked(dropout))
        _begin(self)

    def forward(self, state: Float[Tensor, "batch d"]) -> Float[Tensor, "batch outputs"]:
        inner = torch.tanh(self.dense(self.dropout(state.float())))
        return self.out_proj(self.dropout(inner))


class LastTokenHead(nn.Module):
    """A linear layer with a bias, behind dropout, for a decoder's state at the last token.

    Args:
        width: of the hidden state.
        outputs: how many numbers it gives.
        dropout: probability, in training.

    Raises:
        ValueError: a dropout below 0, or of 1 and above.
    """

    def __init__(self, width: int, outputs: int, *, dropout: float | int = 0.0):
        super().__init__()
        self.out_proj = nn.Linear(width, outputs)
        self.dropout = nn.Dropout(_checked(dropout))
        _begin(self)

    def forward(self, state: Float[Tensor, "batch d"]) -> Float[Tensor, "batch outputs"]:
        return self.out_proj(self.dropout(state.float()))


def _checked(dropout: float | int) -> float:
    if not 0 <= dropout < 1:
        raise ValueError(f"head_dropout must be at least 0 and below 1, got {dropout}")
    return float(dropout)


def _begin(head: nn.Module) -> None:
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=_SPREAD)
