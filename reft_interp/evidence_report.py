"""Evidence for one subspace as a report: what `reft-interp das` writes."""

import json
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from reft_interp.causal import Counterfactuals, DASResult, Evidence, gather_evidence
from reft_interp.models import load_model
from reft_interp.report import Report
from reft_interp.report.markup import as_list
from reft_interp.sites import Component, Site
from reft_interp.tasks import NumberAgreement
from reft_interp.training.in_place import check_arguments
from reft_interp.whole_files import check_writable, write_whole


def run_das(
    out: Path,
    *,
    model: str,
    component: Any,
    layer: int,
    on: str,
    rank: int,
    counterfactuals: str,
    pairs: int,
    seed: int,
    seeds: int = 3,
    epochs: int = 3,
    learning_rate: float = 5e-3,
    batch_size: int = 16,
    minimum_accuracy: float = 0.7,
    console: Console | None = None,
) -> Evidence:
    """Gather evidence, and write `report.html`, `evidence.json` and the interchange.

    Args:
        out: folder for the report; made if needed.
        model: what `load_model` takes.
        component: where in the model, as in "resid_post".
        layer: likewise.
        on: which tokens.
        rank: of the subspace.
        counterfactuals: "number agreement", or a folder that `Counterfactuals.save` wrote.
        pairs: how many are made, where they are made.
        seed: of the pairs, and of the first search.
        seeds: how many searches, with the true labels and with each control's.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        minimum_accuracy: share of prompts that the model must get right without an intervention,
            where pairs are made and before they are searched.
        console: where the result is printed.

    Raises:
        ValueError: an unknown component, a folder without pairs, a number of searches, epochs or
            pairs a step below 1, a learning rate that is none; as `gather_evidence`.
    """
    console = console or Console()
    if component not in get_args(Component):
        raise ValueError(
            f"component must be one of {', '.join(get_args(Component))}, got {component!r}"
        )
    check_arguments(epochs, {}, learning_rate=learning_rate, batch_size=batch_size)
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    site = Site(component, layer)
    # Before minutes of work: a folder that cannot be written, pairs that cannot be read.
    check_writable(out)
    given = None
    if counterfactuals != NumberAgreement.name:
        given = Counterfactuals.load(counterfactuals)
    bridge = load_model(model)
    site.check(bridge)
    data = given or NumberAgreement().counterfactuals(
        bridge, n=pairs, seed=seed, minimum_accuracy=minimum_accuracy
    )
    console.print(str(data), highlight=False)
    evidence = gather_evidence(
        bridge,
        data,
        site,
        on,
        rank=rank,
        seeds=seeds,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        minimum_accuracy=minimum_accuracy,
    )
    console.print(str(evidence), highlight=False)
    console.print(f"\n{evidence.summary()}", highlight=False)
    facts = {
        "model": model,
        "seed": seed,
        "seeds": seeds,
        "epochs": epochs,
        "learning rate": learning_rate,
        "pairs a step": batch_size,
    }
    page = document(evidence, data, facts).save(out)
    found = evidence.found[0]
    assert isinstance(found, DASResult)  # no other method was asked for
    found.save(out / "interchange")
    held = {
        "holds": evidence.holds,
        "failing": list(evidence.failing),
        "methods": evidence.to_frame().to_dict("records"),
        "split": None if evidence.split is None else evidence.split.to_dict("records"),
        "selectivity": evidence.selectivity.to_dict("records"),
        "summary": evidence.summary(),
    }
    write_whole(out / "evidence.json", json.dumps(held, indent=2) + "\n")
    console.print(f"\nThe report is in {page}")
    return evidence


def document(evidence: Evidence, data: Counterfactuals, facts: dict[str, Any]) -> Report:
    """The page: the claim beside its controls, how stable it is, and how large its effects are."""
    page = Report(
        f"Does {evidence.site} carry the {evidence.variable}?",
        subtitle=f"{evidence.model}, on {evidence.on}, rank {evidence.subspace.rank}",
        summary=evidence.summary(),
    )
    page.section("The pairs", as_list(str(data)))
    page.section("The claim beside its controls", as_list("\n".join(evidence.flags)))
    page.figure(
        evidence.plot(),
        caption=f"{evidence.comparison.metric}. 95 % Wilson intervals; of several draws or seeds, "
        "mean and range.",
        name="iia",
    )
    page.table(evidence.to_frame(), caption=evidence.comparison.metric, name="iia")
    page.table(
        evidence.selectivity,
        caption="The claim's accuracy less each control's, on the same pairs; 95 % bootstrap "
        "intervals over pairs.",
        name="selectivity",
    )
    page.section("Is the same subspace found again?")
    page.table(
        evidence.stability,
        caption="Other seeds and resampled pairs beside the first seed; angles in degrees.",
        name="stability",
    )
    page.section("How far does it move the answer?")
    page.table(
        evidence.effects.to_frame(),
        caption="Means over held-out pairs; 95 % intervals (Student's t).",
        name="effects",
    )
    if evidence.split is not None:
        page.section("Does it work through what downstream weights read?")
        page.table(
            evidence.split,
            caption="Interchanges inside the subspace, inside the part of it that output weights "
            "read, inside the rest, and of the whole component; no verdict is taken from it.",
            name="split",
        )
    return page.footer({**facts, "pairs": data.hash, "site": str(evidence.site)})
