"""Cells that train together end where each would end alone."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.testing import assert_close
from transformers import EarlyStoppingCallback

from reft_interp.interventions import DiReFT, DistributedInterchange, LoReFT, VectorAddition
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows, prepare_each
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import Cell, train, train_cells

WORDS = ("key", "keys", "door", "doors", "book", "books", "film", "films")
ROWS = [
    {
        "prompt": f"The {word} near the {other}",
        "answer": " are here" if word.endswith("s") else " is",
    }
    for word in WORDS
    for other in WORDS[:4]
]
SOURCES = [row["prompt"] for row in reversed(ROWS)]


def learned(model, layer=1, on="l1", seed=0) -> IntervenedModel:
    edit = LoReFT(start=Subspace.random(32, 2, seed=seed))
    return IntervenedModel(model, Placement(edit, Site("resid_post", layer), on))


def swapped(model, layer=0, seed=0) -> IntervenedModel:
    edit = DistributedInterchange(Subspace.random(32, 3, seed=seed), trainable=True)
    return IntervenedModel(model, Placement(edit, Site("resid_post", layer), "last"))


def weights(intervened: IntervenedModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in intervened.parameters()])


# 52 steps, and 56 of the smaller batches; a few of the other architecture.
@pytest.mark.parametrize(("architecture", "epochs", "small"), [("llama", 13, 7), ("gpt2", 3, 2)])
def test_each_ends_where_it_would_alone(tiny, architecture, epochs, small):
    """With clipping on: 1e-4 in every parameter."""
    model = tiny(architecture)
    kinds: list[tuple[IntervenedModel, dict[str, Any]]] = [
        (learned(model, 1, "l1"), {"learning_rate": 4e-3, "seed": 0}),
        (learned(model, 0, "f1+l1", seed=1), {"learning_rate": 2e-3, "seed": 1}),
        (swapped(model), {"learning_rate": 5e-3, "seed": 2, "batch_size": 4}),
        (swapped(model, 1, seed=3), {"lr_scheduler_type": "cosine", "warmup_steps": 5}),
        (learned(model, 1, "l2", seed=4), {"max_grad_norm": 0.01, "lr_scheduler_type": "constant"}),
    ]
    together = [intervened for intervened, _ in kinds]
    apart = copy.deepcopy(together)
    prepared = prepare_each([(c, ROWS, SOURCES if c.needs_source else None) for c in together])
    cells = [
        Cell(intervened, rows, epochs=n, **{"batch_size": 8, **options})
        for intervened, rows, n, (_, options) in zip(
            together, prepared, [epochs, epochs, small, epochs, epochs], kinds, strict=True
        )
    ]
    losses = train_cells(cells, progress=False)
    for cell, alone, frame in zip(cells, apart, losses, strict=True):
        expected = train(
            alone,
            PreparedRows(alone, ROWS, SOURCES if alone.needs_source else None, engine="full"),
            epochs=cell.epochs,
            learning_rate=cell.learning_rate,
            batch_size=cell.batch_size,
            seed=cell.seed,
            lr_scheduler_type=cell.lr_scheduler_type,
            warmup_steps=cell.warmup_steps,
            max_grad_norm=cell.max_grad_norm,
            progress=False,
        )
        assert frame["step"].tolist() == expected["step"].tolist()
        assert frame["epoch"].tolist() == pytest.approx(expected["epoch"].tolist())
        assert frame["loss"].tolist() == pytest.approx(expected["loss"].tolist(), abs=1e-4)
        assert_close(weights(cell.intervened), weights(alone), atol=1e-4, rtol=0)
        assert not cell.intervened.training
        assert all(p.grad is None for p in cell.intervened.parameters())
    assert (weights(cells[0].intervened) - weights(learned(model))).abs().max() > 0.01


def test_clipping_is_each_cells_own(tiny):
    """A cell with a huge gradient does not slow the one beside it."""
    model = tiny("llama")
    loud = [{**row, "answer": row["answer"] * 4} for row in ROWS]
    results = []
    for company in ([], [swapped(model, 1, seed=7)]):
        one = learned(model)
        prepared = prepare_each([(one, ROWS, None), *((c, loud, SOURCES) for c in company)])
        cells = [Cell(one, prepared[0], max_grad_norm=0.05, epochs=2)]
        cells += [
            Cell(c, p, learning_rate=0.5, epochs=2)
            for c, p in zip(company, prepared[1:], strict=True)
        ]
        train_cells(cells, progress=False)
        results.append(weights(one))
    assert_close(results[0], results[1], atol=1e-5, rtol=0)


def test_groups_do_not_matter(tiny):
    model = tiny("llama")
    ends = []
    for rows_at_once in (16, 1000):
        together = [learned(model, layer, seed=seed) for layer in (1, 0) for seed in (0, 1)]
        prepared = prepare_each([(one, ROWS, None) for one in together])
        cells = [Cell(one, p, epochs=2) for one, p in zip(together, prepared, strict=True)]
        losses = train_cells(cells, rows_at_once=rows_at_once, progress=False)
        assert all(len(frame) == cell.steps for frame, cell in zip(losses, cells, strict=True))
        ends.append(torch.stack([weights(one) for one in together]))
    assert_close(ends[0], ends[1], atol=1e-4, rtol=0)


def test_early_stopping_is_each_cells_own(tiny, tmp_path):
    model = tiny("llama")
    # What training takes probability from gets worse.
    only = [row for row in ROWS if row["answer"] == " is"] * 2
    opposite = [{**row, "answer": " are"} for row in only]
    stopping, going, alone = (learned(model) for _ in range(3))
    held, same, kept = prepare_each(
        [(stopping, opposite, None), (going, only, None), (alone, opposite, None)]
    )
    rows = PreparedRows(stopping, only)
    options: dict[str, Any] = {"epochs": 8, "learning_rate": 0.3, "patience": 2}
    losses = train_cells(
        [
            Cell(stopping, rows, held, **options),
            Cell(going, PreparedRows(going, only), same, **options),
        ],
        progress=False,
    )
    assert len(losses[0]) < len(losses[1]) == 16
    evaluations = losses[1]["evaluation_loss"].dropna().tolist()
    assert len(evaluations) == 8 and evaluations[-1] < evaluations[0]
    train(
        alone,
        PreparedRows(alone, only),
        kept,
        epochs=8,
        learning_rate=0.3,
        progress=False,
        checkpoints=tmp_path,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        load_best_model_at_end=True,
    )
    assert_close(weights(stopping), weights(alone), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("value.bias", r"its loss or gradient is no number \(loss nan\)"),
        ("rows.matrix", "the trained directions are no longer independent or no numbers"),
    ],
)
def test_a_cell_that_diverges_leaves_the_others_alone(tiny, part, said):
    model = tiny("llama")
    broken, whole, alone = learned(model), learned(model, seed=1), learned(model, seed=1)
    nn.init.constant_(broken.interventions[0].get_parameter(part), float("nan"))
    prepared = prepare_each([(one, ROWS, None) for one in (whole, broken, alone)])
    with pytest.warns(UserWarning, match=rf"cell 1 .* stopped at step 1: {said}"):
        losses = train_cells([Cell(whole, prepared[0]), Cell(broken, prepared[1])], progress=False)
    assert len(losses[0]) == 2 and losses[1].empty
    train_cells([Cell(alone, prepared[2])], progress=False)
    assert_close(weights(whole), weights(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [LoReFT, DiReFT])
@pytest.mark.parametrize("rate", [1e38, 1e40])
def test_a_cell_whose_rate_is_too_large_is_named_and_the_others_go_on(tiny, kind, rate):
    model = tiny("llama")
    placed = [
        IntervenedModel(model, Placement(kind(start=start), Site("resid_post", 0), "l1"))
        for start in [Subspace.random(32, 2, seed=seed) for seed in (0, 1, 1)]
    ]
    prepared = prepare_each([(one, ROWS, None) for one in placed])
    with pytest.warns(UserWarning, match=rf"cell 1 \({kind.__name__}.*\) stopped at step \d: "):
        losses = train_cells(
            [
                Cell(placed[2], prepared[2], prepared[2], epochs=3),
                Cell(placed[0], prepared[0], prepared[0], epochs=3, learning_rate=rate),
            ],
            progress=False,
        )
    assert len(losses[0]) == 6 and len(losses[1]) < 6
    assert placed[0].loss(ROWS).isfinite()
    train_cells([Cell(placed[1], prepared[1], epochs=3)], progress=False)
    assert_close(weights(placed[2]), weights(placed[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (float("nan"), "its weights are no numbers"),
        (3e38, "its last step led to a loss that is no"),
    ],
)
def test_a_cell_whose_last_step_goes_too_far_goes_back(tiny, monkeypatch, where, said):
    model = tiny("llama")
    one, other = learned(model), learned(model, seed=1)
    rows, of_other = prepare_each([(one, ROWS, None), (other, ROWS, None)])
    plain, weight, steps = AdamW.step, one.interventions[0].get_parameter("value.weight"), []

    def step(self, *given):
        plain(self, *given)
        if any(parameter is weight for parameter in self.param_groups[0]["params"]):
            steps.append(1)
            if len(steps) == 2:
                nn.init.constant_(weight, where)

    monkeypatch.setattr(AdamW, "step", step)
    with pytest.warns(UserWarning, match=rf"cell 0 .* stopped at step \d: {said}"):
        losses = train_cells([Cell(one, rows), Cell(other, of_other, epochs=2)], progress=False)
    assert [len(frame) for frame in losses] == [2, 4]
    assert weights(one).isfinite().all() and one.loss(ROWS).isfinite()


def test_directions_that_are_dependent_at_an_evaluation_stop_their_cell_alone(tiny):
    model = tiny("llama")
    broken, whole, alone = learned(model), learned(model, seed=1), learned(model, seed=1)

    def collapse(module, inputs):
        if not module.training:
            with torch.no_grad():
                module.rows.matrix[1] = module.rows.matrix[0]

    broken.interventions[0].register_forward_pre_hook(collapse)
    prepared = prepare_each([(one, ROWS, None) for one in (whole, broken, alone)])
    options: dict[str, Any] = {"epochs": 3, "patience": 3}
    with pytest.warns(UserWarning, match=r"cell 1 .* directions are no longer independent"):
        losses = train_cells(
            [Cell(one, p, p, **options) for one, p in zip((whole, broken), prepared, strict=False)],
            progress=False,
        )
    assert len(losses[0]["evaluation_loss"].dropna()) == 3 and len(losses[1]) == 2
    train_cells([Cell(alone, prepared[2], prepared[2], **options)], progress=False)
    assert_close(weights(whole), weights(alone), atol=1e-5, rtol=0)


def test_a_first_evaluation_without_a_number_is_not_the_best(tiny):
    model = tiny("llama")
    one, alone = learned(model), learned(model)
    runs = []

    def spoil_the_first(module, inputs, output):
        if not module.training:
            runs.append(1)
            return output * (float("nan") if len(runs) <= 2 else 1.0)  # two batches
        return output

    rows = PreparedRows(one, ROWS)
    one.interventions[0].register_forward_hook(spoil_the_first)
    (losses,) = train_cells([Cell(one, rows, rows, epochs=4, patience=2)], progress=False)
    found = losses["evaluation_loss"].iloc[[1, 3, 5, 7]].tolist()
    assert found[0] != found[0] and found[3] < found[2] < found[1]
    train_cells([Cell(alone, rows, epochs=4)], progress=False)
    assert_close(weights(one), weights(alone), atol=1e-5, rtol=0)  # the last were the best


def test_rows_that_were_prepared_for_other_placements_are_refused(tiny, make_tiny):
    model = tiny("llama")
    one = learned(model)
    for other, told in (
        (
            learned(model, on="f1"),
            r"prepared for edits on 'first', but the placements are on 'last'",
        ),
        (learned(model, on="f1+l1"), r"on 'f1\+l1', but .* on 'last'"),
        (learned(make_tiny("llama")), "prepared for another model"),
    ):
        rows, good = PreparedRows(other, ROWS[:2]), PreparedRows(one, ROWS[:2])
        for begin in (Cell, lambda *given: train(*given, progress=False)):
            with pytest.raises(ValueError, match=f"^rows: these were {told}|^rows: .*{told}"):
                begin(one, rows)
            with pytest.raises(ValueError, match=f"^evaluation_rows: .*{told}"):
                begin(one, good, rows)
    lower = IntervenedModel(model, Placement(LoReFT(2), Site("resid_pre", 0), "l1"))
    with pytest.raises(ValueError, match="these are for edits from block 1 on, on last"):
        train(lower, PreparedRows(one, ROWS[:2]), progress=False)
    edit = DistributedInterchange(Subspace.random(32, 3, seed=0), trainable=True)
    elsewhere = IntervenedModel(model, Placement(edit, Site("mlp_out", 0), "last"))
    with pytest.raises(ValueError, match=r"sources of .* were read at .*mlp_out"):
        Cell(swapped(model), PreparedRows(elsewhere, ROWS, SOURCES))


def test_what_cannot_be_trained_is_said_first(tiny):
    model = tiny("llama")
    one = learned(model)
    rows = PreparedRows(one, ROWS)
    with pytest.raises(ValueError, match="at least one cell"):
        train_cells([])
    fixed = IntervenedModel(model, Placement(VectorAddition(torch.ones(32)), Site("z", 0), "l1"))
    with pytest.raises(ValueError, match="nothing to train"):
        Cell(fixed, rows)
    with pytest.raises(ValueError, match="batch_size must be above 0, got 0"):
        Cell(one, rows, batch_size=0)
    with pytest.raises(ValueError, match="needs evaluation_rows"):
        Cell(one, rows, patience=1)
    with pytest.raises(ValueError, match="numbers 0 and 1 share an intervention"):
        train_cells([Cell(one, rows), Cell(one, rows)])
    other = learned(tiny("gpt2"))
    with pytest.raises(ValueError, match="number 1 is placed in another model"):
        train_cells([Cell(one, rows), Cell(other, PreparedRows(other, ROWS))])
    with pytest.raises(ValueError, match="must depend on the step alone"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train_cells([Cell(one, rows, lr_scheduler_type="reduce_lr_on_plateau")])


def test_encoders_train_together_too(tiny):
    """They are not replayed, and still run as one batch."""
    model = tiny("bert")
    together = [learned(model, 0, "f1+l1", seed=seed) for seed in (0, 1)]
    apart = copy.deepcopy(together)
    prepared = prepare_each([(one, ROWS, None) for one in together])
    assert not any(rows.plan.replays for rows in prepared)
    train_cells(
        [Cell(one, p, epochs=3) for one, p in zip(together, prepared, strict=True)], progress=False
    )
    for one, alone in zip(together, apart, strict=True):
        before = weights(alone)
        train(alone, ROWS, epochs=3, progress=False)
        assert_close(weights(one), weights(alone), atol=1e-4, rtol=0)
        assert (weights(one) - before).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("engine", ["auto", "full"])
def test_an_answer_may_be_compared_with_its_choices_alone(tiny, architecture, engine):
    """Alone and together, against the formula: softmax over two logits."""
    model = tiny(architecture)
    rows = [
        {**row, "answer": row["answer"].split(" here")[0], "choices": [" is", " are"]}
        for row in ROWS
    ]
    alone, together, full = (learned(model) for _ in range(3))
    prepared = PreparedRows(alone, rows, engine=engine, over="choices")
    losses = train(alone, prepared, epochs=2, progress=False)
    ids = [model.tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in (" is", " are")]
    first = prepared.inputs([3, 8])
    with torch.no_grad():
        found = full(**first)["loss"]
        logits = full.logits([rows[3]["prompt"], rows[8]["prompt"]])
        ends = first["batch"].prompt_end - 1
        two = logits[torch.arange(2), ends][:, ids].log_softmax(-1)
        right = torch.tensor(
            [ids.index(t) for t in first["batch"].labels[first["batch"].labels > 0]]
        )
        assert_close(found, -two[torch.arange(2), right].mean(), atol=1e-5, rtol=0)
    (frame,) = train_cells(
        [
            Cell(
                together,
                prepare_each([(together, rows, None)], engine=engine, over="choices")[0],
                epochs=2,
            )
        ],
        progress=False,
    )
    assert frame["loss"].tolist() == pytest.approx(losses["loss"].tolist(), abs=1e-4)
    assert_close(weights(together), weights(alone), atol=1e-4, rtol=0)
    assert losses["loss"].iloc[0] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=0.2)


def test_choices_of_one_token_each_are_needed_for_that(tiny):
    model = tiny("llama")
    with pytest.raises(ValueError, match='over="choices": row 0 must have choices of one token'):
        PreparedRows(learned(model), ROWS, over="choices")
    rows = [{"prompt": "The key", "answer": " was", "choices": [" is", " are"]}]
    with pytest.raises(ValueError, match="row 0 has the answer ' was'"):
        PreparedRows(learned(model), rows, over="choices")


def test_an_interrupt_leaves_everything_clean(tiny, monkeypatch):
    """Weights stay those of the steps that were taken; nothing hangs on the model."""
    model = tiny("llama")
    hooks = sum(len(point.fwd_hooks) for point in model.hook_dict.values())
    together = [learned(model, layer) for layer in (0, 1)]
    prepared = prepare_each([(one, ROWS, None) for one in together])
    cells = [Cell(one, p, epochs=2) for one, p in zip(together, prepared, strict=True)]
    steps = []
    real = LoReFT.forward

    def interrupted(self, base, source=None):
        steps.append(1)
        if len(steps) == 6:  # in the third step, with blocks passed over
            raise KeyboardInterrupt
        return real(self, base, source)

    monkeypatch.setattr(LoReFT, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_cells(cells, progress=False)
    assert not any("forward" in block.__dict__ for block in model.blocks)
    assert sum(len(point.fwd_hooks) for point in model.hook_dict.values()) == hooks
    assert not any(one.training for one in together)
    assert all(p.grad is None for one in together for p in one.parameters())
    assert all(torch.isfinite(weights(one)).all() for one in together)
