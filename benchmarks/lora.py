"""LoRA by peft on the same rows, loss, schedule and batches as our own training.

The adapters sit in transformers' own model, a copy of the one that the bridge wraps: a bridge
has its modules replaced, and LoRA on the plain model is the faster and fairer peer.
"""

import tempfile
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from reft_interp.encoding import IGNORED, TokenizedBatch
from reft_interp.evaluation import Accuracy
from reft_interp.models.embedded import embedded_folder
from reft_interp.runtime.batching import Rows, as_list, by_length, encode


class LoRA(nn.Module):
    """SmolLM2 with adapters on queries and values.

    Args:
        bridge: gives the tokenizer.
        rank: of the adapters.
        seed: of their start.
    """

    def __init__(self, bridge: Any, *, rank: int, seed: int):
        super().__init__()
        self._bridge = (bridge,)
        plain = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32)
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.adapted = get_peft_model(plain, config)

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def logits(self, batch: TokenizedBatch, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits at some positions only, as our engine computes them."""
        plain = self.adapted.get_base_model()
        hidden = plain.model(  # pyright: ignore[reportCallIssue]
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return plain.lm_head(hidden[rows, columns])  # pyright: ignore[reportCallIssue]

    def forward(
        self, batch: TokenizedBatch, labels: Tensor, num_items_in_batch: Any = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the answer tokens."""
        rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
        total = cross_entropy(
            self.logits(batch, rows, columns - 1), labels[rows, columns], reduction="sum"
        )
        return {"loss": total / (num_items_in_batch or len(rows))}

    def train_on(self, rows: Rows, *, learning_rate: float, batch_size: int, seed: int) -> int:
        """One epoch of AdamW with a linear schedule; gives the number of steps."""

        def collate(items: list[Any]) -> dict[str, Any]:
            batch = encode(self._bridge[0], items, answers=True)
            return {"batch": batch, "labels": batch.labels}

        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                self,
                TrainingArguments(
                    folder,
                    num_train_epochs=1,
                    learning_rate=learning_rate,
                    per_device_train_batch_size=batch_size,
                    seed=seed,
                    disable_tqdm=True,
                    logging_strategy="no",
                    save_strategy="no",
                    report_to="none",
                    use_cpu=True,
                    remove_unused_columns=False,
                    dataloader_pin_memory=False,
                    label_names=["labels"],
                ),
                data_collator=collate,
                train_dataset=as_list(rows),  # pyright: ignore[reportArgumentType]
            )
            trainer.remove_callback(PrinterCallback)
            trainer.model_accepts_loss_kwargs = True
            trainer.train()
            return trainer.state.global_step

    @torch.no_grad()
    def accuracy(self, rows: Rows, *, batch_size: int = 64) -> Accuracy:
        """Share of rows whose answer is the most probable of the choices, one token each."""
        self.eval()
        bridge, listed, hits = self._bridge[0], as_list(rows), 0
        for group in by_length(listed, batch_size):
            some = [listed[i] for i in group]
            batch = encode(bridge, some)
            logits = self.logits(batch, torch.arange(len(some)), batch.prompt_end - 1)
            for row, scores in zip(some, logits, strict=True):
                tokens = [
                    bridge.tokenizer(choice, add_special_tokens=False)["input_ids"]
                    for choice in row["choices"]
                ]
                if any(len(ids) != 1 for ids in tokens):
                    raise ValueError(f"a choice has several tokens: {row['choices']}")
                best = int(scores[[ids[0] for ids in tokens]].argmax())
                hits += row["choices"][best] == row["answer"]
        return Accuracy(int(hits), len(listed))
