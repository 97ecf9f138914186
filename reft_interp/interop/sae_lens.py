"""Read the sparse autoencoders that sae-lens saves: `cfg.json` and `sae_weights.safetensors`.

sae-lens itself does not install beside TransformerLens 4, and is not needed.
"""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from reft_interp.interventions import FeatureEncoder, SparseAutoencoder

_FILES = ("cfg.json", "sae_weights.safetensors")
_ARCHITECTURES = ("standard", "jumprelu", "topk")


def load_sae(folder: str | Path) -> SparseAutoencoder:
    """The autoencoder in a folder that sae-lens's `SAE.save_model` wrote.

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: a file is damaged; an architecture other than standard (ReLU), jumprelu and
            topk, or activations that are normalised, reshaped or rescaled on the way.
    """
    config_path, tensors_path = (Path(folder) / name for name in _FILES)
    for path in (config_path, tensors_path):
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no autoencoder: there is no {path.name} in it")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        tensors = load_file(str(tensors_path))
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from error
    kind = config.get("architecture")
    if kind not in _ARCHITECTURES:
        raise ValueError(
            f"{config_path}: architecture must be one of {', '.join(_ARCHITECTURES)}, got {kind!r}"
        )
    for name in ("normalize_activations", "reshape_activations", "rescale_acts_by_decoder_norm"):
        if config.get(name, "none") not in ("none", False):
            raise ValueError(f"{config_path}: {name} is {config[name]!r}, which is not supported")
    needed = ["W_enc", "b_enc", "W_dec", "b_dec", *(["threshold"] if kind == "jumprelu" else [])]
    if missing := [name for name in needed if name not in tensors]:
        raise ValueError(f"{tensors_path} is damaged: it lacks {', '.join(missing)}")
    encoder = FeatureEncoder(
        tensors["W_enc"],
        tensors["b_enc"],
        input_bias=tensors["b_dec"] if config.get("apply_b_dec_to_input", True) else None,
        threshold=tensors["threshold"] if kind == "jumprelu" else None,
        k=config["k"] if kind == "topk" else None,
    )
    return SparseAutoencoder(encoder, tensors["W_dec"], tensors["b_dec"])
