"""RAVEL's scores against the definition, row by row, and what its pairs must have."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from datasets import Dataset

import reft_interp as ri
from reft_interp.causal.rows import rows_of

SITE = ri.Site("resid_post", 0)


def greedy(model, prompt: str) -> str:
    """What the model says next, where that is a text of one token."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        for token in model(ids)[0, -1].argsort(descending=True).tolist():
            text = model.tokenizer.decode([token])
            if model.tokenizer(text, add_special_tokens=False)["input_ids"] == [token]:
                return text
    raise AssertionError("no token is a text of its own")


@pytest.fixture(scope="module")
def pairs(tiny):
    """Prompts after which a random model says different things; half of the labels are right."""
    model = tiny("llama")
    names = ["Paris", "Tokyo", "Mary", "John", "key", "cat"]
    rows = []
    for i in range(24):
        asked = ("Colour", "Size", "Taste")[i % 3]
        base, source = names[i % 6], names[(i + 1 + i // 6) % 6]
        prompt = f"{asked} of {base}"
        label = greedy(model, f"{asked} of {source if asked == 'Colour' else base}")
        rows.append(
            {
                "base": prompt,
                "source": f"a {source} here {i}",
                "base_answer": "?",
                "source_answer": "!",
                "label": label if i % 4 else "?",
                "choices": list({label, "?", "!"}),
                "base_spans": {"entity": [len(asked) + 4, len(prompt)]},
                "source_spans": {"entity": [2, 2 + len(source)]},
                "kind": "cause" if asked == "Colour" else "isolate",
                "asked": asked,
            }
        )
    data = Dataset.from_list(rows)
    return ri.Counterfactuals(
        data.select(range(12)), data.select(range(12, 24)), "Colour", 0, 24, 24
    )


@dataclass(frozen=True)
class Given:
    """A method that was told what to do, and remembers what it was fitted to."""

    intervention: ri.Intervention
    name: str
    seen: list
    isolate: bool = False

    def fit(self, model, pairs, variable, site, on):
        self.seen.append(set(pairs["kind"]))
        return self.intervention


def test_scores_are_means_over_questions_and_then_attributes(tiny, pairs):
    model = tiny("llama")
    methods = [
        Given(ri.Interchange(32), "whole vector", []),
        Given(
            ri.DistributedInterchange(ri.Subspace.random(32, 2, seed=0)), "two", [], isolate=True
        ),
    ]
    found = ri.disentanglement(model, [pairs], SITE, "entity", methods, progress=False)
    assert methods[0].seen == [{"cause"}]
    assert methods[1].seen == [{"cause", "isolate"}]
    for method in methods:
        edited = ri.IntervenedModel(model, ri.Placement(method.intervention, SITE, "entity"))
        right: dict[str, list[bool]] = {}
        for row in rows_of(pairs.test):
            logits = edited.logits(
                [{"prompt": row["base"], "spans": row["base_spans"]}],
                [{"prompt": row["source"], "spans": row["source_spans"]}],
            )
            said = int(logits[0, -1].argmax())
            ids = model.tokenizer(row["label"], add_special_tokens=False)["input_ids"]
            # One token each, so that the next token alone decides.
            assert len(ids) == 1
            right.setdefault(row["asked"], []).append(said == ids[0])
        cause = np.mean(right["Colour"])
        isolate = (np.mean(right["Size"]) + np.mean(right["Taste"])) / 2
        one, mean = (
            found.frame.query(f"method == {method.name!r} and attribute == {attribute!r}").iloc[0]
            for attribute in ("Colour", "mean")
        )
        for line in (one, mean):
            assert line["cause"] == pytest.approx(cause)
            assert line["isolate"] == pytest.approx(isolate)
            assert line["disentangle"] == pytest.approx((cause + isolate) / 2)
            assert line["low"] <= line["disentangle"] <= line["high"]
            assert line["n"] == 12
    assert "RAVEL's scores at blocks.0.hook_resid_post" in str(found)
    assert "<table" in found._repr_html_()
    assert [label.get_text() for label in found.plot().get_yticklabels()] == ["whole vector", "two"]


@dataclass(frozen=True)
class Free(Given):
    """Of a free map, which proposes a full swap and remembers the models that it was fitted to."""

    beside_untrained = True

    def fit(self, model, pairs, variable, site, on):
        self.seen.append(model)
        return self.intervention


def test_a_free_map_stands_beside_its_score_on_an_untrained_model(tiny, pairs):
    model = tiny("llama")
    plain = Given(ri.Interchange(32), "plain", [])
    free = Free(ri.Interchange(32), "free", [])
    other = replace(pairs, variable="Size")
    found = ri.disentanglement(model, [pairs, other], SITE, "entity", [free, plain], progress=False)
    names = ["free", "plain", "free, untrained model"]
    assert list(found.frame["method"]) == [*names, *names, *names]
    assert list(found.frame["attribute"]) == [*["Colour"] * 3, *["Size"] * 3, *["mean"] * 3]
    # One untrained copy for all attributes, and it is the one that was scored.
    assert [one is model for one in free.seen] == [True, False, True, False]
    assert free.seen[1] is free.seen[3]
    alone = ri.disentanglement(free.seen[1], [pairs], SITE, "entity", [plain], progress=False)
    columns = ["cause", "isolate", "low", "high", "n"]
    beside = found.frame.query("method == 'free, untrained model' and attribute == 'Colour'")
    assert (beside[columns].to_numpy() == alone.frame[columns].to_numpy()[:1]).all()


def test_says_what_is_wrong(tiny, pairs):
    model, method = tiny("llama"), ri.FullVector()
    with pytest.raises(ValueError, match="methods must be one or more of different names"):
        ri.disentanglement(model, [pairs], SITE, "entity", [method, method])
    with pytest.raises(ValueError, match="pairs must be one or more, of different attributes"):
        ri.disentanglement(model, [pairs, pairs], SITE, "entity", [method])
    without = replace(
        pairs, train=pairs.train.remove_columns("kind"), test=pairs.test.remove_columns("kind")
    )
    with pytest.raises(ValueError, match="train rows of 'Colour' must have the columns kind"):
        ri.disentanglement(model, [without], SITE, "entity", [method])
    with pytest.raises(ValueError, match=r"random subspace: rank must be between 1 and 32 .* 33"):
        ri.disentanglement(model, [pairs], SITE, "entity", [method, ri.RandomSubspace(33)])


def test_a_kind_of_one_row_is_refused_before_anything_is_fitted(tiny, pairs):
    method = Given(ri.Interchange(32), "whole vector", [])
    asked = ["Size" if i == 1 else one for i, one in enumerate(pairs.test["asked"])]
    alone = [i for i, one in enumerate(asked) if one == "Taste"][1:]
    kept = [i for i in range(len(asked)) if i not in alone]
    few = replace(pairs, test=pairs.test.select(kept), kept=12 + len(kept))
    with pytest.raises(ValueError, match="two or more rows of kind 'isolate' that ask for 'Taste'"):
        ri.disentanglement(tiny("llama"), [few], SITE, "entity", [method], progress=False)
    assert not method.seen


def test_where_nothing_varies_the_interval_is_that_of_so_few_pairs(tiny, pairs):
    # What no model says is never right: all of cause, and all of isolate, are 0.
    wrong = [row | {"label": "?", "base_answer": "?"} for row in pairs.test.to_list()]
    some = replace(pairs, test=Dataset.from_list(wrong))
    method = Given(ri.Interchange(32), "whole vector", [])
    found = ri.disentanglement(
        tiny("llama"), [some], SITE, "entity", [method], progress=False
    ).frame.iloc[0]
    # Four rows ask for each; Wilson's upper end of none of n is z² / (n + z²).
    assert found["disentangle"] == found["low"] == 0
    assert found["high"] == pytest.approx(1.96**2 / (4 + 1.96**2), rel=1e-3)
