"""Train parameters of a plain copy of the model, as ReFT is trained: the same tokens, loss,
batches and schedule, without the bridge's hooks. Of an encoder they are trained with a
classifier's head.

Next door: `peft_methods`, and `plain_edits` for interventions beside what is trained here.
"""

import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrize import register_parametrization
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from reft_interp.encoding import IGNORED, TokenizedBatch, prompt_tokens
from reft_interp.interop.adapted_classifier import AdaptedClassifier
from reft_interp.interop.plain_edits import blocks_of, edited
from reft_interp.models.devices import device_of
from reft_interp.models.plain import check_plain, plain_copy
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.context import check_fit, check_room
from reft_interp.runtime.generation import continuations
from reft_interp.runtime.running import is_causal
from reft_interp.saved_files import write_tensors
from reft_interp.training.class_finetuning import fit_classes
from reft_interp.training.collating import RowsDataset, collate_rows
from reft_interp.training.finetuning import Finetuned, FinetuningMethod, Fit, Schedule, TextRow
from reft_interp.training.folder_trainer import training_arguments, use_one_copy
from reft_interp.training.loss_curve import LossCurve, development_curve
from reft_interp.training.memory import peak_memory
from reft_interp.training.processes import check_alone
from reft_interp.training.seeding import seeded
from reft_interp.training.stopping_trainer import StoppingTrainer
from reft_interp.whole_files import replacing

REFT_FOLDER = "reft"
"""Where interventions are saved that were trained together with a plain model's parameters."""


class PlainFinetuned(Finetuned, nn.Module):
    """A plain model some of whose parameters are trained.

    Args:
        bridge: gives the tokenizer.
        adapted: transformers' model, or peft's around it.
        aligned: whether tokens may be padded on the left; prompts that peft learns are put
            before the padding, whose positions it does not take into account.
        placements: interventions that are trained too.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        adapted: nn.Module,
        *,
        aligned: bool = True,
        placements: Sequence[Placement] = (),
    ):
        super().__init__()
        self._bridge = (bridge,)
        self.adapted = adapted
        self._aligned = aligned
        self.placements = tuple(placements)
        self.interventions = nn.ModuleList([one.intervention for one in placements])
        self.interventions.to(device_of(bridge))
        spread_over = getattr(adapted, "hf_device_map", None)
        if spread_over is not None:
            # By this the Trainer knows that layers are to stay on the devices where they are.
            self.hf_device_map = spread_over

    @property
    def trained_parameters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(
        self, batch: TokenizedBatch, labels: Tensor, num_items_in_batch: Any = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the answer tokens; the output layer runs from the first answer on."""
        first = max(int(batch.prompt_end.min()) - 1, 0)
        width = batch.input_ids.shape[1]
        with self._edited(batch):
            logits = self.adapted(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                logits_to_keep=width - first,
                use_cache=False,
            ).logits[:, -(width - first) :]
        rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
        total = cross_entropy(
            logits[rows, columns - 1 - first].float(), labels[rows, columns], reduction="sum"
        )
        return {"loss": total / (num_items_in_batch or len(rows))}

    def summed_loss(self, rows, group):
        self.eval()
        batch = encode(self._bridge[0], [rows[i] for i in group], answers=True)
        summed = self(batch, batch.labels, num_items_in_batch=1)["loss"]
        return float(summed), int((batch.labels != IGNORED).sum())

    def continued(self, rows, **options):
        self.eval()
        batch = encode(self._bridge[0], rows, padding_side="left")
        check_room(self._bridge[0], batch, options.get("max_new_tokens"))
        with self._edited(batch), warnings.catch_warnings():
            # Of prompts that are learned; without padding they are counted right anyway.
            warnings.filterwarnings("ignore", "Position ids are not supported")
            return continuations(self.adapted, self._bridge[0].tokenizer, batch, **options)

    def last_states(self, batch: TokenizedBatch) -> Float[Tensor, "batch pos d"]:
        """What leaves the last block, tokens that peft put before the others included.

        Raises:
            ValueError: pairs of texts, which token types tell apart that peft leaves out.
        """
        given = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            **token_types(batch, self._bridge[0], dropped=not self._aligned),
        }
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        last = str(int(self._bridge[0].cfg.n_layers) - 1)
        block = blocks_of(self._base(), self._bridge[0]).get_submodule(last)
        with self._edited(batch):
            handle = block.register_forward_hook(keep)  # after those that edit
            try:
                self.adapted(**given)
            finally:
                handle.remove()
        return found[0]

    def _base(self) -> nn.Module:
        return getattr(self.adapted, "get_base_model", lambda: self.adapted)()

    def _edited(self, batch: TokenizedBatch) -> AbstractContextManager[None]:
        return edited(self._base(), self._bridge[0], batch, self.placements)

    def groups(self, rows, size):
        if self._aligned:
            return super().groups(rows, size)
        by_tokens: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            [ids], *_ = prompt_tokens(self._bridge[0].tokenizer, [row["prompt"]])
            by_tokens.setdefault(len(ids), []).append(i)
        return [
            same[start : start + size]
            for same in by_tokens.values()
            for start in range(0, len(same), size)
        ]

    def save(self, folder):
        if self.placements:
            IntervenedModel(self._bridge[0], self.placements).save(Path(folder) / REFT_FOLDER)
        if getattr(self.adapted, "peft_config", None) is not None:
            self.adapted.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {
            _ROUNDED.sub(r"\1", name): parameter.detach()
            for name, parameter in self.adapted.named_parameters()
            if parameter.requires_grad
        }
        with replacing(folder / "model.safetensors") as beside:
            write_tensors(trained, beside)


class PlainMethod(FinetuningMethod):
    """What trains parameters of a plain copy of the model."""

    def check_model(self, model):
        """See `FinetuningMethod.check_model`.

        Raises:
            ValueError: as there; or no plain copy can be made of the model.
        """
        super().check_model(model)
        check_plain(model)

    def fit(self, model, rows, schedule, *, development=None, measured_after=(), constants=None):
        check_alone(self.name, "start it with python alone")
        if not is_causal(model):
            return fit_classes(
                model, rows, schedule, partial(self._begin, model, schedule),
                development=development, measured_after=measured_after, constants=constants,
            )  # fmt: skip
        check_fit(model, rows, "rows", answers=True)
        check_fit(model, development or (), "development", answers=True)
        with peak_memory(device_of(model)) as peak:
            with seeded(schedule.seed):
                finetuned = self.adapt(model)
            curve = _train(finetuned, model, rows, schedule, development, measured_after)
        return Fit(finetuned, curve.seconds, 0.0, curve.points, peak.bytes)

    def _begin(
        self, model: TransformerBridge, schedule: Schedule, classes: int | None
    ) -> AdaptedClassifier:
        with seeded(schedule.seed):
            adapted = self.adapt(model)
        with seeded(schedule.seed):  # the head of this seed, whatever was drawn for the rest
            return AdaptedClassifier(model, adapted, classes, max_length=schedule.max_length)

    def adapt(self, model: TransformerBridge) -> PlainFinetuned:
        """The model before training, with its trainable parameters."""
        raise NotImplementedError


def copy_to_train(model: TransformerBridge) -> PreTrainedModel:
    """The plain copy that is trained: of a decoder the whole, of an encoder all but the output
    layer, which no classifier reads."""
    plain = plain_copy(model)
    return plain if is_causal(model) else cast("PreTrainedModel", plain.base_model)


@dataclass(frozen=True, eq=False)
class BitFit(PlainMethod):
    """The biases alone are trained (Ben Zaken et al. 2022, arXiv:2106.10199), in float32 where the
    model has half precision, as peft's adapters are.

    Args:
        name: in tables.
        candidates: learning rates to choose from.
    """

    name: str = "BitFit"
    candidates: tuple[float, ...] = (1e-3, 3e-3, 3e-4)

    def adapt(self, model):
        """See `PlainMethod.adapt`.

        Raises:
            ValueError: the model has no biases.
        """
        plain = copy_to_train(model)
        biases = [name for name, _ in plain.named_parameters() if name.endswith("bias")]
        if not biases:
            raise ValueError(
                f"{self.name} trains biases, and {model.cfg.model_name} (as any llama) has none"
            )
        for name in biases:
            owner, _, last = name.rpartition(".")
            _train_own(plain.get_submodule(owner), last)
        return PlainFinetuned(model, plain)


def _train_own(module: nn.Module, name: str) -> None:
    """Give a module a parameter of its own to train, so that the bridge's stays what it is; in
    float32 or better, as a step is often less than half precision can tell from none."""
    frozen = getattr(module, name).detach()
    held = torch.promote_types(frozen.dtype, torch.float32)
    setattr(module, name, nn.Parameter(frozen.to(held, copy=True)))
    if held != frozen.dtype:
        # Unsafe, for torch, is that the model reads another dtype than is trained.
        register_parametrization(module, name, _Rounded(frozen.dtype), unsafe=True)


class _Rounded(nn.Module):
    """A parameter as the model computes with it.

    Args:
        dtype: the model's.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self._dtype = dtype

    def forward(self, held: Tensor) -> Tensor:
        return held.to(self._dtype)


_ROUNDED = re.compile(r"parametrizations\.([^.]+)\.original$")
"""What torch calls a parameter that a `_Rounded` reads."""


def token_types(
    batch: TokenizedBatch, model: TransformerBridge, *, dropped: bool
) -> dict[str, Tensor]:
    """Which text of a pair each token is of, as the plain model takes it, where it has such types.

    Args:
        batch: the texts.
        model: that read them.
        dropped: whether peft leaves the types out, as it does where it puts prompts before a text.

    Raises:
        ValueError: pairs of texts whose types are left out.
    """
    types = batch.token_type_ids
    if types is None:
        return {}
    if not dropped:
        return {"token_type_ids": types}
    if types.any():
        raise ValueError(
            f"peft leaves out token types where it puts prompts before a text, by which "
            f"{model.cfg.model_name} tells two texts apart: prompts are learned on single texts, "
            "or on encoders without token types (RoBERTa)"
        )
    return {}


class _Encoded:
    """Rows with answers, whose batches are encoded when their turn comes.

    Args:
        model: whose tokenizer reads them.
        rows: with `prompt` and `answer`.
    """

    def __init__(self, model: TransformerBridge, rows: Sequence[TextRow]):
        self._model, self._rows = model, rows

    def __len__(self) -> int:
        return len(self._rows)

    def inputs(self, rows: Sequence[int]) -> dict[str, Any]:
        """Some of the rows, in that order, as `PlainFinetuned.forward` takes them."""
        batch = encode(self._model, [self._rows[i] for i in rows], answers=True)
        return {"batch": batch, "labels": batch.labels}


def _train(
    finetuned: PlainFinetuned,
    model: TransformerBridge,
    rows: Sequence[TextRow],
    schedule: Schedule,
    development: Sequence[TextRow] | None,
    measured_after: Sequence[int],
) -> LossCurve:
    curve = development_curve(finetuned, development, measured_after)
    with training_arguments(
        {**schedule.arguments, "per_device_train_batch_size": schedule.batch_size},
        device=device_of(model),
        evaluates=False,
        progress=False,
        checkpoints=None,
    ) as arguments:
        use_one_copy(arguments)
        trainer = StoppingTrainer(
            finetuned,
            model,
            "The trained parameters hold",
            args=arguments,
            data_collator=collate_rows,
            train_dataset=RowsDataset(_Encoded(model, rows)),
            callbacks=[curve],
        )
        trainer.remove_callback(PrinterCallback)
        finetuned.train()
        try:
            trainer.train()
        finally:
            finetuned.eval()
    return curve
