"""Read the classifiers that pyreft trains on GLUE: interventions, and RoBERTa's head beside them.

Next door: `pyreft` reads the interventions. The head is the one of `training.heads`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.pyreft import HEAD_TENSORS, load_pyreft
from reft_interp.interop.pyvene_folder import MODEL_WEIGHTS, local_folder, read_tensors
from reft_interp.models import identify
from reft_interp.positions import PositionSelector
from reft_interp.runtime.running import is_causal
from reft_interp.training.classifier import Classifier


def load_pyreft_classifier(
    folder: str | Path,
    model: TransformerBridge,
    *,
    on: str | PositionSelector | Sequence[str | PositionSelector],
    act_fn: str | None = None,
    max_length: int | None = None,
) -> Classifier:
    """The classifier in a folder that `ReftModel.save(..., include_model=True)` wrote of a
    RoBERTa with a classification head that was trained too (pyreft's `--allow_cls_grad`).

    Args:
        folder: as for `load_pyreft`, and with the head in `pytorch_model.bin`. Of a head with one
            output the classifier gives a score.
        model: the encoder, as `load_model` gives it.
        on: the tokens, as for `load_pyreft`.
        act_fn: as for `load_pyreft`.
        max_length: tokens after which texts are cut.

    Raises:
        FileNotFoundError: no file of the head; or as `load_pyreft`.
        ValueError: the model is a decoder, `pytorch_model.bin` holds anything else than the head of
            this model, or is damaged; or as `load_pyreft`.
    """
    folder = local_folder(folder)
    if is_causal(model):
        raise ValueError(
            f"model must be an encoder, whose head is RoBERTa's, got {identify(model).name}"
        )
    file = folder / MODEL_WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {MODEL_WEIGHTS} in {folder}, where save(..., include_model=True) writes "
            "the head; the interventions alone are read by load_pyreft"
        )
    head = _read_head(file, model)
    placed = load_pyreft(folder, model, on=on, act_fn=act_fn, ignore_model_weights=True)
    outputs = len(head["out_proj.bias"])
    classes = None if outputs == 1 else outputs
    classifier = Classifier(placed, classes, max_length=max_length)
    classifier.head.load_state_dict(head)
    return classifier


def _read_head(file: Path, model: TransformerBridge) -> dict[str, Tensor]:
    try:
        tensors = read_tensors(file)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if tensors.keys() != HEAD_TENSORS:
        raise ValueError(
            f"{file} must hold {', '.join(sorted(HEAD_TENSORS))}, got "
            f"{', '.join(sorted(tensors)[:6]) or 'nothing'}"
        )
    head = {name.removeprefix("classifier."): tensor.float() for name, tensor in tensors.items()}
    width, outputs = model.cfg.d_model, head["out_proj.bias"].numel()
    expected = {
        "dense.weight": (width, width),
        "dense.bias": (width,),
        "out_proj.weight": (outputs, width),
        "out_proj.bias": (outputs,),
    }
    for name, shape in expected.items():
        if tuple(head[name].shape) != shape or not torch.isfinite(head[name]).all():
            raise ValueError(
                f"{file}: classifier.{name} must hold finite numbers of shape {shape} for "
                f"{identify(model).name}, got shape {tuple(head[name].shape)}"
            )
    return head
