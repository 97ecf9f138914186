"""What is compared with finetuning and trains nothing: the untouched model, a few examples before
the prompt, the answer that is most frequent."""

import math
import random
from collections import Counter
from dataclasses import dataclass

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.evaluation.predicting import answer_log_probabilities
from reft_interp.runtime.batching import encode
from reft_interp.runtime.context import check_fit
from reft_interp.runtime.generation import generate
from reft_interp.training.finetuning import Finetuned, FinetuningMethod, Fit, end_of_text


class Prompted(Finetuned):
    """The model as it is, with text before each prompt.

    Args:
        model: the bridge.
        before: the text, without BOS tokens. That of a prompt, which chat templates write, stays
            at the beginning of both.
    """

    trained_parameters = 0

    def __init__(self, model: TransformerBridge, before: str = ""):
        self.model, self.before = model, before

    def _asked(self, rows):
        bos = _bos_of(self.model)

        def behind(prompt: str) -> str:
            text = prompt.removeprefix(bos)
            return prompt[: len(prompt) - len(text)] + self.before + text

        return [{**row, "prompt": behind(row["prompt"]), "spans": None} for row in rows]

    def generate(self, rows, *, batch_size, **options):
        if self.before:
            check_fit(
                self.model, self._asked(rows), "with the examples before it",
                max_new_tokens=options.get("max_new_tokens") or 0, advice="show fewer examples",
            )  # fmt: skip
        return super().generate(rows, batch_size=batch_size, **options)

    def summed_loss(self, rows, group):
        asked = self._asked([rows[i] for i in group])
        tokens = encode(self.model, asked, answers=True).answer_offsets
        return float(-answer_log_probabilities(self.model, asked).sum()), sum(map(len, tokens))

    def continued(self, rows, **options):
        batch = encode(self.model, self._asked(rows), padding_side="left")
        return generate(self.model, batch, [], **options)

    def save(self, folder):
        """There is nothing to write."""


def _bos_of(model: TransformerBridge) -> str:
    return model.tokenizer.bos_token or ""


@dataclass(frozen=True, eq=False)
class Untouched(FinetuningMethod):
    """The model as it is."""

    name: str = "untouched"
    varies = False
    only_for = "decoders"

    def fit(self, model, rows, schedule, **_):
        return Fit(Prompted(model))


@dataclass(frozen=True, eq=False)
class FewShot(FinetuningMethod):
    """The model as it is, with examples before each prompt, drawn by the seed.

    Args:
        examples: how many.
        name: in tables.

    Raises:
        ValueError: examples below 1.
    """

    examples: int = 4
    name: str = "few-shot prompt"
    only_for = "decoders"

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1, got {self.examples}")

    def fit(self, model, rows, schedule, **_):
        """See `FinetuningMethod.fit`.

        Raises:
            ValueError: fewer rows than examples.
        """
        if self.examples > len(rows):
            raise ValueError(f"examples must be at most {len(rows)} rows, got {self.examples}")
        drawn = random.Random(f"few-shot {schedule.seed}").sample(list(rows), self.examples)
        bos, end = _bos_of(model), end_of_text(model)
        shown = [
            f"{row['prompt'].removeprefix(bos)}{row['answer'].removesuffix(end)}\n\n"
            for row in drawn
        ]
        return Fit(Prompted(model, "".join(shown)))

    def describe(self):
        return {**super().describe(), "examples": self.examples}


class Constant(Finetuned):
    """Gives one answer, whatever is asked.

    Args:
        answer: what it gives.
        end: what may stand behind an answer of a row, and is no part of it.
    """

    trained_parameters = 0

    def __init__(self, answer: str, end: str = ""):
        self.answer, self.end = answer, end

    def summed_loss(self, rows, group):
        certain = all(rows[i]["answer"].removesuffix(self.end) == self.answer for i in group)
        return (0.0 if certain else math.inf), len(group)

    def continued(self, rows, **_):
        return [self.answer] * len(rows)

    def save(self, folder):
        """There is nothing to write."""


@dataclass(frozen=True, eq=False)
class MostFrequentAnswer(FinetuningMethod):
    """Whatever is asked, the answer that most training rows have: what knowing nothing of the
    prompts is worth.

    Args:
        name: in tables.
    """

    name: str = "most frequent answer"
    varies = False

    def fit(self, model, rows, schedule, **_):
        end = end_of_text(model)
        counted = Counter(row["answer"].removesuffix(end) for row in rows)
        return Fit(Constant(counted.most_common(1)[0][0], end))
