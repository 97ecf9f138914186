"""What a model is, in the few words that are saved beside whatever was trained on it."""

from dataclasses import dataclass

import torch
from transformer_lens.model_bridge import TransformerBridge

_REVISION = "model_revision"  # on the bridge's configuration, so that it survives a deepcopy


@dataclass(frozen=True)
class ModelIdentity:
    """Enough to tell whether an intervention belongs to a model, and to load that model again.

    `load_model(identity.name, revision=identity.revision)` loads it.
    """

    name: str
    revision: str | None
    """The hub's commit, or how the embedded model was quantized; None for local files."""
    architecture: str
    n_layers: int
    d_model: int
    dtype: str

    def __str__(self) -> str:
        revision = f" at {self.revision}" if self.revision else ""
        return (
            f"{self.name}{revision} ({self.architecture}, {self.n_layers} layers, "
            f"d_model {self.d_model}, {self.dtype})"
        )


def identify(model: TransformerBridge) -> ModelIdentity:
    """What `model` is; the revision is known where `load_model` loaded it."""
    cfg = model.cfg
    return ModelIdentity(
        name=str(cfg.model_name),
        revision=getattr(cfg, _REVISION, None),
        architecture=str(cfg.architecture),
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
        dtype=dtype_name(next(model.parameters()).dtype),
    )


def set_identity(model: TransformerBridge, name: str, revision: str | None) -> None:
    """Note on `model` where it came from."""
    model.cfg.model_name = name
    setattr(model.cfg, _REVISION, revision)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
