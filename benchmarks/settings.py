"""What a replayed training step costs under other settings than those that were chosen.

A DAS step (16 rows of 40 tokens, layer 15, rank 8) at the last token, and at the first six, from
where all tokens are run: with one thread and with all, under bfloat16 autocast, with
`torch.compile` on the replayed blocks; and what its forward pass keeps for the backward pass. Also
how far a replay of a bfloat16 model is from its plain run, beside how far bfloat16 is from
float32. The last line of standard output is one JSON object.

    python benchmarks/settings.py
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from sides import Steps, in_turns, rounds_asked, seconds, texts
from torch import Tensor

from reft_interp import DistributedInterchange, Placement, Site, Subspace, load_model
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.running import answer_positions
from reft_interp.runtime.shadowing import shadowed

ROWS, TOKENS, LAYER, RANK = 16, 40, 15, 8


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within it torch uses so many."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


@contextmanager
def blocks_replaced(model, wrapped: list[Callable]) -> Iterator[None]:
    """Within it the blocks above the edited layer run other forward functions."""
    with shadowed(dict(zip(list(model.blocks)[LAYER + 1 :], wrapped, strict=True))):
        yield


def compiled(model) -> list[Callable]:
    """The upper blocks' forward functions, compiled."""
    return [
        torch.compile(block.forward, dynamic=False) for block in list(model.blocks)[LAYER + 1 :]
    ]


def saved_megabytes(work: Callable[[], Tensor]) -> float:
    """Of the tensors that one forward pass keeps for its backward pass, parameters left out."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(kept.values()) / 1e6


class Case:
    """A DAS step at one layer, and what it has to say of itself.

    Args:
        model: the hooked model.
        on: the edited tokens.
    """

    def __init__(self, model, on: str):
        self.model = model
        base = texts(model.tokenizer, ROWS, TOKENS, seed=0)
        self.rows = [{"prompt": text, "answer": " is"} for text in base]
        self.sources = texts(model.tokenizer, ROWS, TOKENS, seed=1)
        start = Subspace.random(model.cfg.d_model, RANK, seed=0)
        edit = DistributedInterchange(start, trainable=True)
        self.steps = Steps(
            model,
            [Placement(edit, Site("resid_post", LAYER), on)],
            self.rows,
            self.sources,
            learning_rate=5e-3,
        )

    def loss(self) -> Tensor:
        """Of all rows, replayed."""
        return self.steps.intervened(**self.steps.prepared.inputs(range(ROWS)))["loss"]

    def replayed_logits(self) -> Tensor:
        """Where the answer is predicted, `[rows, vocab]`, in float32."""
        inputs = self.steps.prepared.inputs(range(ROWS))
        at = answer_positions(self.model, inputs["batch"])
        with torch.no_grad():
            (logits,) = joint_logits([Share(self.steps.intervened, inputs, at)])
        return logits.float()

    def plain_logits(self) -> Tensor:
        """The same of the plain run."""
        prompts = [row["prompt"] for row in self.rows]
        with torch.no_grad():
            return self.steps.intervened.logits(prompts, self.sources)[:, -1].float()

    def under(self, context: AbstractContextManager) -> float:
        """Seconds of a step within a context."""
        with context:
            return seconds(self.steps.step)


def of_settings(model, rounds: int) -> dict[str, float]:
    """Seconds of a step under each setting, and MB that its forward pass keeps."""
    found = {}
    for name, on in (("last", "last"), ("first_6", "f6")):
        case = Case(model, on)
        wrapped = compiled(model)
        sides = {
            "chosen": lambda case=case: case.under(nullcontext()),
            "one_thread": lambda case=case: case.under(threads(1)),
            "autocast": lambda case=case: case.under(torch.autocast("cpu", torch.bfloat16)),
            "compiled": lambda case=case, of=wrapped: case.under(blocks_replaced(model, of)),
        }
        times = in_turns(sides, rounds)
        found |= {f"{side}_seconds_{name}": spent for side, spent in times.items()}
        found[f"kept_megabytes_{name}"] = saved_megabytes(case.loss)
    return found


def of_bfloat16() -> dict[str, float]:
    """Largest differences of the answer's logits."""
    exact = Case(load_model("smollm2"), "last")
    rounded = Case(load_model("smollm2", dtype="bfloat16"), "last")
    plain = rounded.plain_logits()
    return {
        "bfloat16_replay_from_plain": float((rounded.replayed_logits() - plain).abs().max()),
        "bfloat16_plain_from_float32": float((plain - exact.plain_logits()).abs().max()),
        "float32_replay_from_plain": float(
            (exact.replayed_logits() - exact.plain_logits()).abs().max()
        ),
        "largest_logit": float(exact.plain_logits().abs().max()),
    }


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    rounds = rounds_asked(__doc__)
    logging.disable(logging.WARNING)
    found = of_bfloat16() | of_settings(load_model("smollm2"), rounds)
    print(json.dumps({name: round(value, 5) for name, value in found.items()}))


if __name__ == "__main__":
    main()
