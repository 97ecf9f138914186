"""Whatever is raised in the middle of a run, the model is afterwards what it was before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interventions import Intervention, VectorAddition
from reft_interp.positions import Positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import record, run
from reft_interp.sites import Site

ROWS = [
    {"prompt": "The key near the doors", "answer": " is"},
    {"prompt": "Paris is a city", "answer": " in"},
]


class Interrupted(Intervention):
    """An intervention that works until it is told to raise."""

    def __init__(self):
        super().__init__(32)
        self.error: BaseException | None = None

    def forward(self, base, source=None):
        if self.error is not None:
            raise self.error
        return base + 1


class UnreadableSite(Site):
    """A site at which reading is interrupted."""

    def read(self, activation, positions):
        raise KeyboardInterrupt


def hook_count(model: TransformerBridge) -> int:
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())


def logits_of(model: TransformerBridge) -> torch.Tensor:
    with torch.no_grad():
        return run(model, encode(model, [row["prompt"] for row in ROWS]))


def frozen_run(intervened: IntervenedModel) -> None:
    intervention = intervened.placements[0].intervention
    assert isinstance(intervention, Interrupted)
    error, intervention.error = intervention.error, None
    prepared = PreparedRows(intervened, ROWS)
    assert prepared.plan.replays
    intervention.error = error
    intervened(**prepared.inputs([0, 1]))


STAGES: dict[str, Callable[[IntervenedModel], Any]] = {
    "run": lambda intervened: intervened.logits(ROWS),
    "loss": lambda intervened: intervened.loss(ROWS),
    "replay": frozen_run,
    "generate": lambda intervened: intervened.generate(ROWS, max_new_tokens=2),
}


@pytest.mark.parametrize("error", [RuntimeError("in an intervention"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_nothing_stays_after_an_intervention_raised(tiny, architecture, stage, error):
    model = tiny(architecture)
    before, hooks = logits_of(model), hook_count(model)
    interrupted = Interrupted()
    intervened = IntervenedModel(
        model,
        [
            Placement(interrupted, Site("resid_post", 1), "last"),
            Placement(VectorAddition(torch.ones(32)), Site("mlp_out", 1), "last"),
        ],
    )
    STAGES[stage](intervened)  # it runs to its end
    interrupted.error = error
    with pytest.raises(type(error)):
        STAGES[stage](intervened)
    assert hook_count(model) == hooks
    assert torch.equal(logits_of(model), before)
    for block in model.blocks:
        assert "forward" not in vars(block)  # the class's own is what runs


def test_nothing_stays_after_recording_was_interrupted(tiny_model):
    before, hooks = logits_of(tiny_model), hook_count(tiny_model)
    batch = encode(tiny_model, ROWS)
    at = Positions(torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(KeyboardInterrupt):
        record(tiny_model, batch, [(UnreadableSite("resid_post", 0), at)])
    assert hook_count(tiny_model) == hooks
    assert torch.equal(logits_of(tiny_model), before)


@pytest.mark.parametrize("layer", [0, 1])
def test_nothing_stays_after_freezing_was_interrupted(freeze_batch, tiny, layer):
    model = tiny("llama")
    before, hooks = logits_of(model), hook_count(model)
    batch = encode(model, ROWS, answers=True)
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", layer), "last")
    edits = IntervenedModel(model, placed).edits(batch)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.blocks[1].attn.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            freeze_batch(model, batch, edits)
    finally:
        handle.remove()
    assert hook_count(model) == hooks
    assert torch.equal(logits_of(model), before)


def test_hooks_that_were_there_before_stay(tiny):
    model = tiny("gpt2")
    seen = []

    def note(activation: torch.Tensor, hook: Any) -> None:
        seen.append(hook.name)

    interrupted = Interrupted()
    interrupted.error = RuntimeError("in an intervention")
    intervened = IntervenedModel(model, Placement(interrupted, Site("resid_post", 0), "last"))
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", note)]):
        with pytest.raises(RuntimeError, match="in an intervention"):
            intervened.logits(ROWS)
        logits_of(model)
    assert len(seen) == 2
