"""One setting at a time: which ReFTs there are, and which of them a figure shows."""

from typing import Any

import pytest
import torch
from datasets import Dataset

from reft_interp.evaluation.metrics import exact_match
from reft_interp.interventions import RED, ConsReFT, DiReFT, LoReFT, NonlinearInterchange
from reft_interp.subspace import Subspace
from reft_interp.sweeps import Budget, ablations, compare
from reft_interp.sweeps.ablations import settings, varied
from reft_interp.tasks.suites import Suite, paper_recipe
from reft_interp.training.reft_method import ReFT

pytestmark = pytest.mark.usefixtures("long_training")

BASE = ReFT(LoReFT(rank=2, dropout=0.1), (0, 1), "f1+l1")


def suite() -> Suite:
    said = ("The old", "Near the doors the", "A long", "In Japan the", "No", "Paris, the")
    rows = Dataset.from_list(
        [
            {"prompt": f"{start} {word}", "answer": answer, "gold": answer.strip()}
            for start in said
            for word, answer in (("key", " is"), ("keys", " are"))
        ]
    )
    return Suite(
        name="keys", train=rows, development=rows, tests={"keys": rows}, template="{}",
        extract=lambda answer: next((w for w in ("is", "are") if w in answer), None),
        metric=exact_match(), max_new_tokens=2, recipe=paper_recipe("commonsense"),
    )  # fmt: skip


def test_each_setting_is_changed_alone_for_each_intervention():
    found = ablations(
        BASE, interventions=[DiReFT], ranks=(1, 2), layers=("all", (1,), (0, 1)),
        on=("l1", "f1+l1"), untied=True,
    )  # fmt: skip
    of_one = ["", ", rank 1", ", layers all", ", layers 1", ", on last", ", untied"]
    assert [one.name for one in found] == [
        f"{kind}{what}" for kind in ("LoReFT", "DiReFT") for what in of_one
    ]
    for one in found:
        described = one.describe()
        assert type(one.intervention).__name__ == one.name.split(",")[0]
        assert described["intervention"][1]["rank"] == (1 if "rank 1" in one.name else 2)
        assert described["layers"] == (
            "all" if "layers all" in one.name else [1] if "layers 1" in one.name else [0, 1]
        )
        assert described["on"] == ("last" if "on last" in one.name else "f1+l1")
        assert described["tied"] == ("untied" not in one.name)
    # What is not changed stays as it was.
    assert found[0] is BASE and found[1].intervention.arguments()["dropout"] == 0.1


def test_another_kind_has_every_argument_that_it_knows():
    base = ReFT(LoReFT(rank=2, dropout=0.1, activation="gelu", dtype=torch.float64), (0,), "l1")
    _, ranked, direft, direft_ranked, constant, _ = ablations(
        base, interventions=[DiReFT, ConsReFT], ranks=(1,)
    )
    shared = {"rank": 2, "dropout": 0.1, "dtype": "float64", "width": None}
    with_activation = {**shared, "activation": "gelu"}
    assert ranked.intervention.arguments() == {**with_activation, "rank": 1}
    assert direft.intervention.arguments() == {**with_activation, "orthonormal": False}
    assert direft_ranked.intervention.arguments() == {
        **with_activation, "orthonormal": False, "rank": 1,
    }  # fmt: skip
    assert constant.intervention.arguments() == shared


def test_what_has_no_rank_is_refused():
    with pytest.raises(ValueError, match="interventions: RED has no rank"):
        ablations(BASE, interventions=[RED])
    with pytest.raises(ValueError, match="reft: RED has no rank"):
        ablations(ReFT(RED(), component="mlp_out"))


def test_another_kind_begins_where_the_reft_does(tiny):
    start = Subspace.random(32, 2, seed=3)
    base = ReFT(LoReFT(start=start), (0,), "l1")
    for one in ablations(base, interventions=[DiReFT], layers=[(1,)]):
        (placement,) = one.placements(tiny("llama"))
        assert placement.intervention.subspace.overlap(start) == pytest.approx(1.0)
    told = "reft has a start of rank 2, where {} of rank {} cannot begin: give LoReFT"
    with pytest.raises(ValueError, match=told.format("LoReFT", 4)):
        ablations(base, ranks=(2, 4))
    with pytest.raises(ValueError, match=told.format("NonlinearInterchange", 2)):
        ablations(base, interventions=[NonlinearInterchange])
    assert [one.name for one in ablations(base, ranks=(2,))] == ["LoReFT"]


def test_what_has_no_rank_is_shown_by_its_other_settings():
    refts = [
        ReFT(RED(), (0,), "l1", name="RED"),
        ReFT(RED(), (0, 1), "l1", name="RED, more"),
        ReFT(LoReFT(4), (0,), "l1"),
        ReFT(LoReFT(4), (0, 1), "l1", name="LoReFT, more"),
        ReFT(LoReFT(8), (0,), "l1", name="LoReFT, wide"),
    ]
    found: Any = settings([one.describe() for one in refts])
    by_layers: Any = varied(found, "layers")
    assert list(by_layers["method"]) == ["RED", "RED, more", "LoReFT", "LoReFT, more"]
    by_rank: Any = varied(found, "rank")
    assert list(by_rank["method"]) == ["LoReFT", "LoReFT, wide"]
    assert [str(rank) for rank in by_rank["rank"]] == ["4", "8"]
    alone: Any = varied(found[:2], "layers")
    assert list(alone["method"]) == ["RED", "RED, more"]


def test_untied_is_asked_where_there_are_two_ends_and_adds_nothing_twice():
    untied = ReFT(LoReFT(rank=2), (0,), "f1+l1", tied=False)
    assert ablations(untied, untied=True) == [untied]
    with pytest.raises(ValueError, match=r"tied=False needs first and last tokens.*got .l3"):
        ablations(ReFT(LoReFT(rank=2), (0,), "l3"), untied=True)


@pytest.mark.usefixtures("no_type_checks")
def test_what_is_no_reft_and_what_is_not_several_is_refused():
    wrong: Any = LoReFT(rank=2)
    with pytest.raises(TypeError, match=r"reft must be a ReFT, as ReFT\(.*got LoReFT"):
        ablations(wrong)
    with pytest.raises(TypeError, match=r"ranks must be several, as ranks=\(2,\), got 2"):
        ablations(BASE, ranks=2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"on must be several, as on=\('l1',\), got 'l1'"):
        ablations(BASE, on="l1")
    kind: Any = ConsReFT
    with pytest.raises(
        TypeError, match=r"interventions must be several, .*=\(ConsReFT,\), got Cons"
    ):
        ablations(BASE, interventions=kind)


def test_a_comparison_shows_what_differs_in_one_setting_alone(tiny, tmp_path):
    found = compare(
        tiny("llama"), suite(),
        ablations(BASE, interventions=[DiReFT], ranks=(4, 1), on=("l1",)),
        budget=Budget(2, 4, trials=1, seeds=(0,)), folder=tmp_path, progress=False,
    )  # fmt: skip
    frame = found.settings().set_index("method")
    assert list(frame.loc["LoReFT, on last", ["intervention", "rank", "layers", "on", "tied"]]) == [
        "LoReFT", 2, "0, 1", "last", True,
    ]  # fmt: skip
    ax: Any = found.plot_setting("rank")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["rank 1", "rank 2", "rank 4"] * 2
    drawn = sorted(
        float(y) for line in ax.lines if line.get_gid() == "value" for y in line.get_xdata()
    )
    table = found.frame.set_index("method")["score"]
    names = [
        f"{kind}{what}" for kind in ("LoReFT", "DiReFT") for what in ("", ", rank 4", ", rank 1")
    ]
    assert drawn == pytest.approx(sorted(table[name] for name in names))
    labels = [text.get_text() for text in found.plot_setting("on", "keys").get_yticklabels()]
    assert labels == ["on f1+l1", "on last"] * 2
    with pytest.raises(ValueError, match=r"setting must be one of rank, layers, .* got 'width'"):
        found.plot_setting("width")
    with pytest.raises(ValueError, match="'layers' is the same in all ReFTs here"):
        found.plot_setting("layers")
    with pytest.raises(ValueError, match="dataset must be one of keys, got 'doors'"):
        found.plot_setting("rank", "doors")
