"""Several sources by name, and sources that are edited themselves, against runs by hand."""

import pytest
import torch
from torch.testing import assert_close

from reft_interp.evaluation import accuracy, answer_log_probabilities
from reft_interp.interventions import DistributedInterchange, Interchange
from reft_interp.runtime import EditedSource, IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

ROWS = [
    {"prompt": "The key near the doors", "answer": " is"},
    {"prompt": "Paris", "answer": " is"},
    {"prompt": "Is twelve more than three?", "answer": " Yes"},
]
LEFT = ["No, the", "The films were good", "A"]
RIGHT = ["Tokyo is a city", "seven is", "Mary and John"]
LOW, HIGH = Site("resid_post", 0), Site("resid_post", 1)
PART = Subspace.random(32, 3, seed=1)


def held(model, prompt: str, site: Site, hooks=()) -> torch.Tensor:
    """What a run by hand holds at a site in the prompt's last token."""
    kept = {}

    def keep(activation, hook):
        kept["it"] = activation[0, -1].clone()

    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=[*hooks, (site.hook_name, keep)])
    return kept["it"]


def setting(site: Site, value: torch.Tensor, subspace: Subspace | None = None):
    """A hook that puts a value into the last token, inside a subspace or whole."""

    def put(activation, hook):
        if subspace is None:
            activation[0, -1] = value
        else:
            activation[0, -1] += subspace.basis.T @ (subspace.basis @ (value - activation[0, -1]))
        return activation

    return site.hook_name, put


def last_logits(model, prompt: str, hooks) -> torch.Tensor:
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        return model.run_with_hooks(ids, fwd_hooks=hooks)[0, -1]


def at_end(intervened, rows, sources) -> list[torch.Tensor]:
    logits = intervened.logits(rows, sources)
    lengths = [len(intervened.model.tokenizer(row["prompt"])["input_ids"]) for row in rows]
    return [logits[i, length - 1] for i, length in enumerate(lengths)]


def two(model) -> IntervenedModel:
    return IntervenedModel(
        model,
        [
            Placement(DistributedInterchange(PART), LOW, "last", source="left"),
            Placement(Interchange(), Site("mlp_out", 1), "last", source="right"),
        ],
    )


def test_each_placement_reads_its_own_source(tiny):
    model = tiny("llama")
    found = at_end(two(model), ROWS, {"left": LEFT, "right": RIGHT})
    for row, left, right, logits in zip(ROWS, LEFT, RIGHT, found, strict=True):
        mlp = Site("mlp_out", 1)
        hooks = [setting(LOW, held(model, left, LOW), PART), setting(mlp, held(model, right, mlp))]
        assert_close(logits, last_logits(model, row["prompt"], hooks), atol=1e-5, rtol=1e-5)
    swapped = at_end(two(model), ROWS, {"left": RIGHT, "right": LEFT})
    assert not torch.allclose(swapped[0], found[0], atol=1e-3)


def test_an_edited_source_is_an_interchange_within_an_interchange(tiny):
    model = tiny("llama")
    inner = IntervenedModel(model, Placement(DistributedInterchange(PART), LOW, "last"))
    outer = IntervenedModel(model, Placement(Interchange(), Site("mlp_out", 1), "last"))
    found = at_end(outer, ROWS, EditedSource(inner, LEFT, RIGHT))
    for row, left, right, logits in zip(ROWS, LEFT, RIGHT, found, strict=True):
        mlp = Site("mlp_out", 1)
        nested = held(model, left, mlp, [setting(LOW, held(model, right, LOW), PART)])
        expected = last_logits(model, row["prompt"], [setting(mlp, nested)])
        assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        plain = last_logits(model, row["prompt"], [setting(mlp, held(model, left, mlp))])
        assert not torch.allclose(logits, plain, atol=1e-3)


def test_a_path_is_what_one_site_does_through_another_alone(tiny):
    """Path patching: the MLP of the upper layer sees the source's lower layer, all else the
    base's."""
    model = tiny("llama")
    through = Site("mlp_out", 1)
    prompts = [row["prompt"] for row in ROWS]
    upstream = IntervenedModel(model, Placement(Interchange(), LOW, "last"))
    downstream = IntervenedModel(model, Placement(Interchange(), through, "last"))
    found = at_end(downstream, ROWS, EditedSource(upstream, prompts, LEFT))
    for row, left, logits in zip(ROWS, LEFT, found, strict=True):
        patched = held(model, row["prompt"], through, [setting(LOW, held(model, left, LOW))])
        expected = last_logits(model, row["prompt"], [setting(through, patched)])
        assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("engine", ["auto", "full"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1]])
def test_prepared_rows_hold_what_each_source_holds(causal_model, engine, order):
    intervened = IntervenedModel(
        causal_model,
        [
            Placement(DistributedInterchange(PART), LOW, "last", source="left"),
            Placement(Interchange(), HIGH, "last", source="right"),
        ],
    )
    inner = IntervenedModel(causal_model, Placement(Interchange(), LOW, "last"))
    sources = {"left": LEFT, "right": EditedSource(inner, RIGHT, LEFT)}
    prepared = PreparedRows(intervened, ROWS, sources, batch_size=2, engine=engine)
    some = {
        "left": [LEFT[i] for i in order],
        "right": EditedSource(inner, [RIGHT[i] for i in order], [LEFT[i] for i in order]),
    }
    expected = intervened.loss([ROWS[i] for i in order], some)
    assert_close(intervened(**prepared.inputs(order))["loss"], expected, atol=1e-5, rtol=1e-5)
    plain = intervened.loss(
        [ROWS[i] for i in order], {"left": some["left"], "right": LEFT[:1] * len(order)}
    )
    assert abs(plain - expected) > 1e-4


def test_equal_prompts_under_different_edits_are_different_sources(tiny):
    model = tiny("llama")
    inner = IntervenedModel(model, Placement(Interchange(), LOW, "last"))
    outer = IntervenedModel(model, Placement(Interchange(), HIGH, "last"))
    same = ["Paris is"] * 3
    prepared = PreparedRows(outer, ROWS, EditedSource(inner, same, LEFT))
    sources = prepared.inputs([0, 1, 2])["sources"][0]
    for left, found in zip(LEFT, sources, strict=True):
        hooks = [setting(LOW, held(model, left, LOW))]
        assert_close(found, held(model, "Paris is", HIGH, hooks), atol=1e-5, rtol=1e-5)


def test_evaluation_takes_them_row_by_row(tiny):
    model = tiny("llama")
    sources = {"left": LEFT, "right": RIGHT}
    scores = answer_log_probabilities(two(model), ROWS, sources, batch_size=2)
    for i, row in enumerate(ROWS):
        alone = {name: [rows[i]] for name, rows in sources.items()}
        assert_close(
            scores[i], answer_log_probabilities(two(model), [row], alone)[0], atol=1e-5, rtol=1e-5
        )
    with pytest.raises(ValueError, match=r"sources 'right': 2 for 3 rows"):
        accuracy(two(model), ROWS, {"left": LEFT, "right": RIGHT[:2]})


def test_training_mode_does_not_reach_a_source(tiny):
    """A mask that is soft while it trains is hard where it is read."""
    from reft_interp.interventions import MaskedInterchange

    model = tiny("llama")
    inner = IntervenedModel(model, Placement(MaskedInterchange(PART), LOW, "last"))
    outer = IntervenedModel(model, Placement(Interchange(), HIGH, "last"))
    expected = outer.loss(ROWS, EditedSource(inner, LEFT, RIGHT))
    inner.train()
    assert outer.loss(ROWS, EditedSource(inner, LEFT, RIGHT)) == expected
    assert inner.training


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (LEFT, "sources must be a mapping with rows for 'left', 'right', .* got one list of rows"),
        ({"left": LEFT}, "sources must be a mapping with rows for 'left', 'right'"),
        ({"left": LEFT, "right": RIGHT[:1]}, "sources 'right': 1 for 3 rows"),
        (None, "sources are missing"),
    ],
)
def test_says_which_sources_are_wanted(tiny, sources, message):
    with pytest.raises(ValueError, match=message):
        two(tiny("llama")).logits(ROWS, sources)


def test_an_edited_source_is_checked_when_it_is_made(tiny):
    inner = IntervenedModel(tiny("llama"), Placement(Interchange(), LOW, "last"))
    with pytest.raises(ValueError, match="sources are missing"):
        EditedSource(inner, LEFT)
    with pytest.raises(ValueError, match="sources: 2 for 3 rows"):
        EditedSource(inner, LEFT, RIGHT[:2])
    other = IntervenedModel(tiny("gpt2"), Placement(Interchange(), LOW, "last"))
    told = "must be of the model that reads it, which is tiny-llama; it is of the model tiny-gpt2"
    with pytest.raises(ValueError, match=told):
        inner.logits(ROWS, EditedSource(other, LEFT, RIGHT))


def test_the_name_of_a_source_is_saved(tiny, tmp_path):
    model = tiny("llama")
    two(model).save(tmp_path)
    loaded = IntervenedModel.load(tmp_path, model)
    assert [placement.source for placement in loaded.placements] == ["left", "right"]
    assert str(loaded.placements[0]).endswith("from 'left'")
