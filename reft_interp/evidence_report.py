"""Evidence for one subspace, or for those of several variables, as a report: what `reft-interp das`
writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from reft_interp.causal import (
    Counterfactuals,
    Evidence,
    JointEvidence,
    gather_evidence,
    gather_joint_evidence,
)
from reft_interp.models import load_model
from reft_interp.positions import parse_positions
from reft_interp.runtime.batching import encode
from reft_interp.sites import Component, Site
from reft_interp.tasks import NumberAgreement
from reft_interp.training.in_place import check_arguments
from reft_interp.whole_files import check_writable


def run_das(
    out: Path,
    *,
    model: str,
    component: Any,
    layer: int | None,
    on: str,
    rank: int,
    counterfactuals: str,
    pairs: int,
    seed: int,
    variables: Sequence[str] = (),
    seeds: int = 3,
    epochs: int = 3,
    learning_rate: float = 5e-3,
    batch_size: int = 16,
    minimum_accuracy: float = 0.7,
    console: Console | None = None,
) -> Evidence | JointEvidence:
    """Gather evidence, and write `report.html`, `evidence.json` and the interchange.

    Args:
        out: folder for the report; made if needed.
        model: what `load_model` takes.
        component: where in the model, as in "resid_post".
        layer: likewise; None beside `variables`, which have their own.
        on: which tokens, of one variable.
        rank: of the subspace of one variable.
        counterfactuals: "number agreement", or a folder that `Counterfactuals.save` wrote; for
            `variables` of pairs with a source for each.
        pairs: how many are made, where they are made.
        seed: of the pairs, and of the first search.
        variables: several that are searched together, each with its layer, tokens and rank, as in
            "left=0,a,8".
        seeds: how many searches, with the true labels and with each control's.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        minimum_accuracy: share of prompts that the model must get right without an intervention,
            where pairs are made and before they are searched.
        console: where the result is printed.

    Raises:
        ValueError: an unknown component, variables that cannot be read, a folder without pairs, a
            number of searches, epochs or pairs a step below 1, a learning rate that is none; as
            `gather_evidence` or `gather_joint_evidence`.
    """
    console = console or Console()
    if component not in get_args(Component):
        raise ValueError(
            f"component must be one of {', '.join(get_args(Component))}, got {component!r}"
        )
    places = read_places(variables, component)
    check_arguments(epochs, {}, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    site = None if layer is None else Site(component, layer)
    # Before minutes of work: a folder that cannot be written, pairs that cannot be read.
    check_writable(out)
    given = None
    if site is None or counterfactuals != NumberAgreement.name:
        given = Counterfactuals.load(counterfactuals)
    bridge = load_model(model)
    if site is not None:
        site.check(bridge)
    if given is None:
        # Before minutes of work, again: tokens that no pair would have.
        parse_positions(on)(encode(bridge, [NumberAgreement().example()]))
    data = given or NumberAgreement().counterfactuals(
        bridge, n=pairs, seed=seed, minimum_accuracy=minimum_accuracy
    )
    console.print(str(data), highlight=False)
    told: dict[str, Any] = {
        "seeds": seeds,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
        "minimum_accuracy": minimum_accuracy,
    }
    if site is None:
        evidence = gather_joint_evidence(bridge, data, places, **told)
    else:
        evidence = gather_evidence(bridge, data, site, on, rank=rank, **told)
    console.print(str(evidence), highlight=False)
    console.print(f"\n{evidence.summary()}", highlight=False)
    page = evidence.save(out, data)
    console.print(f"\nThe report is in {page}")
    return evidence


def read_places(texts: Sequence[str], component: Component) -> dict[str, tuple[Site, str, int]]:
    """Of each variable its site, tokens and rank.

    Args:
        texts: as in "left=0,a,8"; tokens may have commas of their own.
        component: of all sites.

    Raises:
        ValueError: a text that says something else, or a variable twice.
    """
    places: dict[str, tuple[Site, str, int]] = {}
    for text in texts:
        variable, _, where = text.partition("=")
        layer, _, rest = where.partition(",")
        tokens, _, rank = rest.rpartition(",")
        numbers = [part.strip() for part in (layer, rank)]
        if not (variable.strip() and tokens.strip() and all(map(str.isdecimal, numbers))):
            raise ValueError(
                f"variable must say its layer, tokens and rank, as left=0,subject,4, got {text!r}"
            )
        if variable.strip() in places:
            raise ValueError(f"variable {variable.strip()!r} is there twice")
        places[variable.strip()] = (
            Site(component, int(numbers[0])), tokens.strip(), int(numbers[1]),
        )  # fmt: skip
    return places
