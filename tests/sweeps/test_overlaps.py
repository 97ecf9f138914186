"""Which subspaces are compared with which, and what is said of those that are not."""

from typing import Any

import pytest
from made_comparisons import comparison, placed, suite

from reft_interp.interop.peft_methods import PEFT, lora
from reft_interp.interventions import LoReFT
from reft_interp.positions import parse_positions
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.sweeps import Budget, compare, compare_subspaces
from reft_interp.sweeps.overlaps import among_themselves, between_tasks, with_das
from reft_interp.training.reft_method import ReFT

A, B, C = (Subspace.random(32, 2, seed=seed) for seed in range(3))


def at(**subspaces: Subspace) -> Any:
    """By layer and tokens, as `l1_last`; the last token is also called "l1"."""
    return {
        (Site("resid_post", int(name[1])), parse_positions(name[3:])): one
        for name, one in subspaces.items()
    }


def test_refts_on_other_tokens_are_compared_by_their_site():
    found = {("LoReFT", 0): at(l1_last=A, l2_last=B), ("DiReFT", 1): at(l1_f1=B, l2_l2=A)}
    rows, notes = among_themselves(found)
    assert [row["question"] for row in rows] == ["LoReFT and DiReFT, on other tokens"] * 2
    assert [row["tokens"] for row in rows] == ["last and first", "last and l2"]
    assert [row["overlap"] for row in rows] == pytest.approx([A.overlap(B)] * 2)
    assert notes == []


def test_where_tokens_are_shared_only_they_are_compared():
    found = {("LoReFT", 0): at(l1_f1=A, l1_last=B), ("DiReFT", 1): at(l1_last=A, l1_l2=C)}
    rows, _ = among_themselves(found)
    assert [(row["question"], row["tokens"]) for row in rows] == [("LoReFT and DiReFT", "last")]


def test_what_is_not_compared_is_said():
    rows, notes = among_themselves({("a", 0): at(l1_last=A), ("b", 0): at(l1_last=B)})
    assert rows == []
    assert notes == [
        "What a and b write was not compared: one seed starts both in one subspace, and there "
        "are no two different ones"
    ]
    rows, notes = among_themselves({("a", 0): at(l1_last=A), ("b", 1): at(l2_last=B)})
    assert rows == []
    assert notes == ["What a and b write was not compared: they have no site in common"]


def test_what_began_in_a_start_that_was_given_is_not_compared():
    found = {
        (name, seed): at(l1_last=one)
        for name, one in (("a", A), ("b", B), ("c", C))
        for seed in (0, 1)
    }
    rows, notes = among_themselves(found, {"a", "b"})
    assert {row["question"] for row in rows} == {"c: two seeds", "a and c", "b and c"}
    why = "was not compared: it begins where its template stands, whatever the seed"
    assert notes == [f"What {what} write {why}" for what in ("seeds of a", "seeds of b", "a and b")]
    rows, notes = between_tasks(found, "sst2", {"rte": found}, {"rte": {"a", "b"}})
    assert {row["question"] for row in rows} == {"c: sst2 and rte"}
    assert notes == [f"What {name} writes for sst2 and rte {why}" for name in ("a", "b")]


def test_a_start_that_a_comparison_was_given_is_told_of(tiny, tmp_path):
    model = tiny("llama")
    known = suite(model)
    given = LoReFT(start=A)
    refts = [
        ReFT(given, (0,), "last", name="given"),
        ReFT(LoReFT(rank=2), (0,), "last", name="drawn"),
        PEFT(lora(2).config, reft=ReFT(given, (0,), "last"), name="beside"),
    ]
    budget = Budget(1, 8, trials=1, seeds=(0, 1))
    made = compare(model, known, refts, budget=budget, folder=tmp_path, progress=False)
    assert not any(made.frame["error"])
    found = compare_subspaces(made, model, known, pairs=1, draws=1)
    asked = set(found.overlaps["question"])
    assert asked == {"drawn: two seeds", "given and drawn", "drawn and beside"}
    assert sum("begins where its template stands" in note for note in found.notes) == 3


def test_tasks_are_compared_by_method_and_different_seeds():
    here = {("LoReFT", 0): at(l1_last=A), ("LoReFT", 1): at(l1_last=B), ("RED", 0): at(l1_last=C)}
    there = {("LoReFT", 0): at(l1_last=C), ("LoReFT", 1): at(l1_last=A)}
    rows, notes = between_tasks(here, "sst2", {"rte": there})
    assert {row["question"] for row in rows} == {"LoReFT: sst2 and rte"}
    assert [(row["first"], row["second"]) for row in rows] == [
        ("LoReFT 0", "LoReFT 1 of rte"), ("LoReFT 1", "LoReFT 0 of rte"),
    ]  # fmt: skip
    assert [row["overlap"] for row in rows] == pytest.approx([1.0, B.overlap(C)])
    assert all(row["expected at random"] == 2 / 32 < row["random high"] < 0.5 for row in rows)
    assert notes == []
    _, notes = between_tasks(here, "sst2", {"rte": {("other", 1): at(l1_last=A)}})
    assert notes == ["sst2 and rte were not compared: no ReFT has one name in both"]
    _, notes = between_tasks({("LoReFT", 0): at(l1_last=A)}, "sst2",
                             {"rte": {("LoReFT", 0): at(l1_last=A)}})  # fmt: skip
    assert notes[0].startswith("What LoReFT writes for sst2 and rte was not compared: one seed")


def test_das_is_compared_at_its_own_place_only():
    rows = with_das({("LoReFT", 0): at(l1_last=A, l1_f1=B)}, at(l1_last=A))
    assert [(row["tokens"], row["overlap"]) for row in rows] == [("last", pytest.approx(1.0))]


def test_other_comparisons_are_given_as_they_are(tiny, tmp_path):
    model = tiny("llama")
    known = suite(model)
    one = comparison(model, tmp_path / "1", {"LoReFT": {0: placed(model, LoReFT, (A, B))}})
    two = comparison(
        model, tmp_path / "2", {"LoReFT": {1: placed(model, LoReFT, (A, C))}}, name="another"
    )
    found: Any = compare_subspaces(one, model, known, others=[two], pairs=1, draws=1).overlaps
    assert list(found["question"]) == ["LoReFT: own answers and another"] * 2
    assert list(found["overlap"]) == pytest.approx([1.0, B.overlap(C)])
    with pytest.raises(ValueError, match="suite of its own, got 'own answers' twice"):
        compare_subspaces(one, model, known, others=[one])
    with pytest.raises(ValueError, match="compared on, 'another', got 'own answers'"):
        compare_subspaces(two, model, known)
