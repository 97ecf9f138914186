"""A classifier on a plain copy of an encoder whose own parameters, or adapters, are trained.

Next door: `plain_finetuning` makes the copy. Classifiers of interventions in a bridge are in
`training.classifier`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.positions import Positions
from reft_interp.runtime.frozen import Region
from reft_interp.runtime.running import prompt_starts
from reft_interp.saved_files import write_tensors
from reft_interp.training.classifier import Classifier
from reft_interp.training.classifier_saving import HEAD
from reft_interp.whole_files import replacing

if TYPE_CHECKING:
    from reft_interp.interop.plain_finetuning import PlainFinetuned

_HOW_TO_READ = (
    "what an adapted encoder's `save` writes is no classifier's folder (there is no config.json): "
    "read the adapters with peft's PeftModel.from_pretrained (of BitFit, model.safetensors) on "
    "transformers' own encoder, and the head's tensors from head.safetensors"
)


class AdaptedClassifier(Classifier):
    """The head of a `Classifier`, on what leaves the last block of an adapted encoder.

    Args:
        bridge: the encoder as it is, which gives the tokenizer.
        adapted: a plain copy of it without the output layer.
        classes: how many there are; None for a single score.
        max_length: tokens after which texts are cut.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        adapted: "PlainFinetuned",
        classes: int | None,
        *,
        max_length: int | None = None,
    ):
        super().__init__(bridge, classes, max_length=max_length)
        self.adapted = adapted

    @property
    def states_are_constant(self) -> bool:
        return False

    @property
    def intervention_parameters(self) -> int:
        """How many numbers are trained without the head."""
        return self.adapted.trained_parameters

    def state(
        self,
        batch: TokenizedBatch,
        positions: Sequence[Positions] | None = None,
        frozen: Sequence[Region] | None = None,
    ) -> Float[Tensor, "batch d"]:
        """The hidden states that the head reads of a batch, which runs in full.

        Args:
            batch: the texts.
            positions: not used: they are selected anew.
            frozen: not used: nothing is constant.
        """
        width = batch.input_ids.shape[1]
        # Tokens of peft's own stand before those of the text.
        return prompt_starts(batch).read(self.adapted.last_states(batch)[:, -width:])

    def save(self, folder: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write `head.safetensors` beside what was adapted, which peft's own files hold, or
        `model.safetensors`.

        Raises:
            ValueError: notes, which these files have no place for.
        """
        if notes is not None:
            raise ValueError(
                "notes have no place among the files of an adapted encoder, which are peft's: "
                f"leave them out, got {dict(notes)}"
            )
        self.adapted.save(folder)
        held = {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}
        with replacing(Path(folder) / HEAD) as beside:
            write_tensors(held, beside)

    @classmethod
    def load(cls, folder: str | Path, model: TransformerBridge) -> NoReturn:
        """Not for adapted encoders.

        Raises:
            TypeError: always; it says how the files are read.
        """
        raise TypeError(f"AdaptedClassifier.load: {_HOW_TO_READ}")

    def load_weights(self, folder: str | Path) -> NoReturn:
        """Not for adapted encoders.

        Raises:
            TypeError: always; it says how the files are read.
        """
        raise TypeError(f"AdaptedClassifier.load_weights: {_HOW_TO_READ}")
