"""Read the sparse autoencoders that sae-lens saves: `cfg.json` and `sae_weights.safetensors`.

sae-lens itself does not install beside TransformerLens 4, and is not needed.
"""

from pathlib import Path

from reft_interp.interventions import FeatureEncoder, SparseAutoencoder
from reft_interp.saved_files import check_fields, read_json, read_numbers, reading

_FILES = ("cfg.json", "sae_weights.safetensors")
_ARCHITECTURES = ("standard", "jumprelu", "topk")
_NOT_SUPPORTED = (
    "normalize_activations", "reshape_activations", "rescale_acts_by_decoder_norm",
    "finetuning_scaling_factor",
)  # fmt: skip


def load_sae(folder: str | Path) -> SparseAutoencoder:
    """The autoencoder in a folder that sae-lens's `SAE.save_model` wrote.

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: a file is damaged, or the two do not fit; an architecture other than standard
            (ReLU), jumprelu and topk, another activation function, or activations that are
            normalised, reshaped or rescaled on the way.
    """
    config_path, tensors_path = (Path(folder) / name for name in _FILES)
    for path in (config_path, tensors_path):
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no autoencoder: there is no {path.name} in it")
    config, tensors = read_json(config_path), read_numbers(tensors_path)
    check_fields(config_path, config, {})
    kind = config.get("architecture")
    if kind not in _ARCHITECTURES:
        raise ValueError(
            f"{config_path}: architecture must be one of {', '.join(_ARCHITECTURES)}, got {kind!r}"
        )
    # Until sae-lens 6 "standard" was also said of others than ReLU, by the name of the function.
    if config.get("activation_fn_str") == "topk":
        kind = "topk"
        config = {**config, **(config.get("activation_fn_kwargs") or {})}
    elif config.get("activation_fn_str", "relu") != "relu":
        raise ValueError(
            f"{config_path}: activation_fn_str must be relu or topk, got "
            f"{config['activation_fn_str']!r}"
        )
    for name in _NOT_SUPPORTED:
        if config.get(name, "none") not in ("none", False):
            raise ValueError(f"{config_path}: {name} is {config[name]!r}, which is not supported")
    needed = ["W_enc", "b_enc", "W_dec", "b_dec", *(["threshold"] if kind == "jumprelu" else [])]
    if missing := [name for name in needed if name not in tensors]:
        raise ValueError(f"{tensors_path} is damaged: it lacks {', '.join(missing)}")
    if kind == "topk":
        check_fields(config_path, config, {"k": (int,)})
    with reading(Path(folder), "the autoencoder"):
        encoder = FeatureEncoder(
            tensors["W_enc"],
            tensors["b_enc"],
            input_bias=tensors["b_dec"] if config.get("apply_b_dec_to_input", True) else None,
            threshold=tensors["threshold"] if kind == "jumprelu" else None,
            k=config["k"] if kind == "topk" else None,
        )
        return SparseAutoencoder(encoder, tensors["W_dec"], tensors["b_dec"])
