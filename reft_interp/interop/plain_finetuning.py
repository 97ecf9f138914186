"""Train parameters of a plain copy of the model, as ReFT is trained: the same tokens, loss,
batches and schedule, without the bridge's hooks.

Next door: `peft_methods`, and `plain_edits` for interventions beside what is trained here.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformer_lens.model_bridge import TransformerBridge
from transformers.trainer_callback import PrinterCallback

from reft_interp.encoding import IGNORED, TokenizedBatch
from reft_interp.interop.plain_edits import edited
from reft_interp.models.devices import device_of
from reft_interp.models.plain import plain_copy
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.context import check_fit, check_room
from reft_interp.runtime.generation import continuations
from reft_interp.runtime.running import is_causal
from reft_interp.training.collating import RowsDataset, collate_rows
from reft_interp.training.finetuning import Finetuned, FinetuningMethod, Fit, Schedule, TextRow
from reft_interp.training.folder_trainer import training_arguments, use_one_copy
from reft_interp.training.loss_curve import LossCurve
from reft_interp.training.memory import peak_memory
from reft_interp.training.processes import check_alone
from reft_interp.training.stopping_trainer import StoppingTrainer

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

    def _edited(self, batch: TokenizedBatch) -> AbstractContextManager[None]:
        base = getattr(self.adapted, "get_base_model", lambda: self.adapted)()
        return edited(base, self._bridge[0], batch, self.placements)

    def groups(self, rows, size):
        if self._aligned:
            return super().groups(rows, size)
        by_tokens: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            length = len(self._bridge[0].tokenizer(row["prompt"])["input_ids"])
            by_tokens.setdefault(length, []).append(i)
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
        Path(folder).mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach() for n, p in self.adapted.named_parameters() if p.requires_grad}
        save_file(trained, Path(folder) / "model.safetensors")


class PlainMethod(FinetuningMethod):
    """What trains parameters of a plain copy of the model."""

    def fit(self, model, rows, schedule, *, development=None, measured_after=(), constants=None):
        if not is_causal(model):
            raise ValueError(
                f"{self.name} is trained on answers, and {model.cfg.model_name} is no decoder"
            )
        check_fit(model, rows, "rows", answers=True)
        check_fit(model, development or (), "development", answers=True)
        check_alone(self.name, "start it with python alone")
        with peak_memory(device_of(model)) as peak:
            with torch.random.fork_rng():
                torch.manual_seed(schedule.seed)
                finetuned = self.adapt(model)
            curve = _train(finetuned, model, rows, schedule, development, measured_after)
        return Fit(finetuned, curve.seconds, 0.0, curve.points, peak.bytes)

    def adapt(self, model: TransformerBridge) -> PlainFinetuned:
        """The model before training, with its trainable parameters."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class BitFit(PlainMethod):
    """The biases alone are trained (Ben Zaken et al. 2022, arXiv:2106.10199).

    Args:
        name: in tables.
        candidates: learning rates to choose from.
    """

    name: str = "BitFit"
    candidates: tuple[float, ...] = (1e-3, 3e-3, 3e-4)

    def adapt(self, model):
        plain = plain_copy(model)
        biases = [name for name, _ in plain.named_parameters() if name.endswith("bias")]
        if not biases:
            raise ValueError(
                f"{self.name} trains biases, and {model.cfg.model_name} (as any llama) has none"
            )
        for name in biases:
            # Their own memory: the bridge's biases stay what they are.
            owner, _, last = name.rpartition(".")
            held = plain.get_submodule(owner)
            setattr(held, last, nn.Parameter(getattr(held, last).detach().clone()))
        return PlainFinetuned(model, plain)


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
    curve = LossCurve(
        lambda: finetuned.loss(development or rows), measured_after if development else ()
    )
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
