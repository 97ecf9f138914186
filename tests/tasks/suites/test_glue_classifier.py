"""A suite of GLUE, given whole to `fit_classifier`."""

from dataclasses import replace
from typing import Any

import pytest

from reft_interp.interventions import LoReFT
from reft_interp.sites import Site
from reft_interp.tasks.suites import glue
from reft_interp.training import Classifier, fit_classifier
from reft_interp.training.labelled_rows import texts_of

SITES = [Site("resid_post", layer) for layer in (0, 1)]
HEADER = "index\tsentence1\tsentence2\tlabel\n"
WORDS = ("key", "door", "film", "table")


@pytest.fixture
def rte(tmp_path, write):
    """An encoder can read off the label: the second text is the first, or is not."""
    lines = [
        f"{i}\tthe {a} is old\tthe {b} is old\t{'entailment' if a == b else 'not_entailment'}\n"
        for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
    ]
    write("rte.train.tsv", HEADER + "".join(lines))
    write("rte.dev.tsv", HEADER + "".join(lines[:10]).replace("old", "new"))
    return glue("rte", tmp_path)


def fit(model, suite, **options: Any):
    settings: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-3, "progress": False} | options
    return fit_classifier(model, suite, LoReFT(rank=1), SITES, "f3+l1", **settings)


def test_an_encoder_reads_the_two_texts_and_a_decoder_the_question(make_encoder, tiny, rte):
    row = rte.train[1]
    assert texts_of(make_encoder("bert"), [row]) == [
        {"prompt": "the key is old", "text_pair": "the door is old"}
    ]
    (read,) = texts_of(tiny("llama"), [row])
    assert read["prompt"].endswith("\nDoes the premise imply the hypothesis?\nAnswer:")


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_its_halves_and_its_metric_are_used(make_encoder, tiny, rte, architecture):
    model = make_encoder("bert") if architecture == "bert" else tiny("llama")
    found = fit(model, rte)
    assert found.settings["rows"] == [16, 5, 5] and found.settings["metric"] == "accuracy"
    assert found.score is not None and found.score.n == 5
    assert found.score == found.evaluate(rte.tests["rte"])
    predicted = found.classifier.predict(rte.development)
    right = [said == label for said, label in zip(predicted, rte.development["label"], strict=True)]
    assert max(found.epochs["score"].tolist()) == sum(right) / 5


def test_scores_of_stsb_are_fitted_and_correlated(make_encoder, tmp_path, write):
    header = "sentence1\tsentence2\tscore\n"
    lines = [f"the {a}\tthe {b}\t{4.5 * (a == b):.1f}\n" for a in WORDS for b in WORDS]
    write("stsb.train.tsv", header + "".join(lines))
    write("stsb.dev.tsv", header + "".join(lines[:8]))
    found = fit(make_encoder("bert"), glue("stsb", tmp_path))
    assert found.classifier.classes is None and found.score is not None
    assert found.score.metric == "Pearson correlation"


def test_suites_that_cannot_be_trained_on_are_refused(make_encoder, rte):
    model = make_encoder("bert")
    with pytest.raises(ValueError, match="the suite has its own, which are its development"):
        fit(model, rte, validation=rte.development)
    with pytest.raises(ValueError, match="the suite has no rows to train on"):
        fit(model, replace(rte, train=None))
    two = replace(rte, tests={"rte": rte.tests["rte"], "other": rte.tests["rte"]})
    with pytest.raises(ValueError, match="the suite has 2 test sets, and one is reported on"):
        fit(model, two)
    # Without test rows there is a classifier, and no score.
    found = fit(model, replace(rte, tests={}))
    assert found.score is None and isinstance(found.classifier, Classifier)
