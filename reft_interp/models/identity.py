"""What a model is, in the few words that are saved beside whatever was trained on it."""

import hashlib
from dataclasses import dataclass

import torch
from transformer_lens.model_bridge import TransformerBridge

_SAMPLED = 1024  # numbers of each parameter that a fingerprint is made of
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


def fingerprint(model: TransformerBridge) -> str:
    """Tells models of other weights apart, whatever their names: another checkpoint or seed.

    It is a hash of the bytes of about a thousand numbers of every parameter, so the same in every
    process, on every device and with any number of threads. What changes a few numbers of a large
    matrix alone, as one row of the embeddings, can escape it.
    """
    found = hashlib.sha256()
    for name, parameter in model.original_model.named_parameters():
        numbers = parameter.detach().reshape(-1)
        # An odd stride, so that the sample of a matrix is not all of one column.
        sample = numbers[:: max(1, len(numbers) // _SAMPLED) | 1].cpu().contiguous()
        found.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        found.update(sample.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def set_identity(model: TransformerBridge, name: str, revision: str | None) -> None:
    """Note on `model` where it came from."""
    model.cfg.model_name = name
    setattr(model.cfg, _REVISION, revision)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
