"""What an encoder's sources hold: they are read as its bases are, masks included."""

import pytest
import torch

from reft_interp.evaluation import choice_scores
from reft_interp.evaluation.scoring import prepared_choice_scores
from reft_interp.interventions import Interchange, VectorAddition
from reft_interp.runtime import EditedSource, IntervenedModel, Placement
from reft_interp.runtime.batching import beside_answers, encode
from reft_interp.runtime.encoded_rows import EncodedRows, source_reads
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site

CHOICES = [" is", " are"]
PROMPTS = ["The key near the doors", "A cat"]
ROWS = [{"prompt": one, "answer": " is", "choices": CHOICES} for one in PROMPTS]


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize("on", ["every", "last"])
@pytest.mark.parametrize("component", ["resid_post", "attn_out"])
def test_a_prompt_that_is_its_own_source_changes_nothing(tiny, architecture, on, component):
    model = tiny(architecture)
    swapped = IntervenedModel(model, Placement(Interchange(), Site(component, 0), on))
    untouched = choice_scores(model, ROWS)
    torch.testing.assert_close(
        choice_scores(swapped, ROWS, PROMPTS), untouched, rtol=1e-4, atol=1e-5
    )
    prepared = PreparedRows(swapped, ROWS, PROMPTS)
    (scores,) = prepared_choice_scores([(swapped, prepared)])
    found, expected = ([of[0] - of[1] for of in scored] for scored in (scores, untouched))
    assert found == pytest.approx(expected, abs=1e-4)


def test_sources_get_as_many_masks_as_their_bases_and_no_more(tiny):
    model = tiny("bert")
    sources = encode(model, ["A cat", "The key near the doors"])
    bases = encode(model, [ROWS[0], ROWS[1] | {"answer": " is are"}], answers=True)
    read = beside_answers(model, sources, bases)
    for row, masks in ((0, 1), (1, 2)):
        start, end = int(sources.prompt_end[row]), int(read.answer_end[row])
        assert end - start == masks
        assert (read.input_ids[row, start:end] == model.tokenizer.mask_token_id).all()
        assert int(read.attention_mask[row].sum()) == end
        assert read.input_ids[row, :start].equal(sources.input_ids[row, :start])
    assert beside_answers(model, sources, encode(model, PROMPTS)) is sources


def test_sources_that_are_edited_themselves_are_read_with_masks(tiny):
    model, site = tiny("bert"), Site("resid_post", 0)
    nothing = VectorAddition(torch.ones(model.cfg.d_model), strength=0.0)
    inner = IntervenedModel(model, Placement(nothing, site, "last"))
    swapped = IntervenedModel(model, Placement(Interchange(), site, "last"))
    of_edited = choice_scores(swapped, ROWS, EditedSource(inner, PROMPTS))
    torch.testing.assert_close(of_edited, choice_scores(model, ROWS), rtol=1e-4, atol=1e-5)


def test_one_source_of_bases_with_unlike_answers_is_recorded_for_each(tiny):
    model = tiny("bert")
    swapped = IntervenedModel(model, Placement(Interchange(), Site("resid_post", 0), "last"))
    rows = [{"prompt": "A cat", "answer": answer} for answer in (" is", " is are")]
    sources = ["A cat", "A cat"]
    expected = swapped.read_sources(encode(model, rows, answers=True), sources)
    found = PreparedRows(swapped, rows, sources).inputs([0, 1])["sources"]
    assert expected is not None and found is not None
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0][0], found[0][1], atol=1e-4)


def test_sources_run_once_for_all_sites_that_read_them(tiny):
    model = tiny("bert")
    placed = [Placement(Interchange(), Site("resid_post", layer), "last") for layer in (0, 1)]
    encoded, bases = EncodedRows(model), encode(model, ROWS, answers=True)
    first, second = (
        source_reads([one], encoded, bases, lambda on: on(bases), PROMPTS)[0][0] for one in placed
    )
    assert first.batch is second.batch


def test_a_source_that_masks_make_too_long_is_named(tiny):
    model, long = tiny("bert"), "a " * 63
    swapped = IntervenedModel(model, Placement(Interchange(), Site("resid_post", 0), "last"))
    fits = len(model.tokenizer(long)["input_ids"])
    assert fits <= 128
    row = {"prompt": "A cat", "answer": " is" * (129 - fits)}
    masks = len(model.tokenizer(row["answer"], add_special_tokens=False)["input_ids"])
    told = (
        rf"sources: row 1 has {fits + masks} tokens \({masks} of them masks for the answer of its "
        r"base\), and tiny-bert can read 128"
    )
    for run in (
        lambda: swapped.loss([row] * 2, ["A cat", long]),
        lambda: PreparedRows(swapped, [row] * 2, ["A cat", long]),
    ):
        with pytest.raises(ValueError, match=told):
            run()
