"""Read a GGUF file, and convert one to a folder of safetensors.

De-quantizing takes most of the time: a minute for a few hundred million parameters. The folder
loads in a second.
"""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .quiet import quiet


def read_gguf(file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer in a GGUF file, de-quantized to `dtype`.

    Raises:
        ValueError: transformers can't read the file; the message has its reason.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=dtype, attn_implementation="eager"
            )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"name: transformers can't read {file}: {error}") from error
    # The weights are plain now; as long as these are there, saving and loading think otherwise.
    model.hf_quantizer = None  # pyright: ignore[reportArgumentType]
    vars(model.config).pop("quantization_config", None)
    return model, tokenizer


def gguf_to_folder(file: Path, folder: Path) -> None:
    """Write what is in `file` to `folder` as float32 safetensors, with its tokenizer."""
    model, tokenizer = read_gguf(file, torch.float32)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
