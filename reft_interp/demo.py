"""The main job: find a causal variable, teach a task, and probe what the two subspaces share.

`reft-interp demo` runs it; everything it does is a call that a user can make.
"""

import json
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reft_interp import plotting
from reft_interp.causal import Counterfactuals, DASResult, fit_das
from reft_interp.evaluation import Accuracy, Comparison, accuracy
from reft_interp.interventions import DiReFT, LoReFT
from reft_interp.models import identify, load_model
from reft_interp.probing import ProbeReport, probe_each
from reft_interp.probing.document import INTERVALS, add_probes
from reft_interp.report import Report
from reft_interp.report.cells import columns
from reft_interp.report.markup import as_list
from reft_interp.sites import Site
from reft_interp.tasks import LabelledTask, NumberAgreement, number_naming, sst2
from reft_interp.training import ReFTResult, fit_reft
from reft_interp.whole_files import check_writable, write_whole

_RANK = 4
_DEPTH = 0.4
"""Share of the layers that are below the one where it looks; in smollm2 that is layer 12."""


@dataclass(frozen=True)
class Demo:
    """What the main job found, and where it wrote it."""

    folder: Path
    summary: dict[str, Any]

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"


def run_demo(
    out: str | Path = "report",
    *,
    data: str | None = None,
    model: str = "smollm2",
    layer: int | None = None,
    seed: int = 0,
    pairs: int = 600,
    task_rows: tuple[int, int] = (600, 200),
    console: Console | None = None,
) -> Demo:
    """Find a causal variable by DAS, train two ReFTs, probe them, and write a report.

    Args:
        out: folder for the report; made if needed.
        data: SST-2 as a folder or hub name, for the ReFT's task; by default a task that the
            project generates.
        model: what `load_model` takes.
        layer: whose output is searched, edited and probed, from 0; two fifths of the way up by
            default.
        seed: of data, starts and controls.
        pairs: counterfactual pairs, training and test together.
        task_rows: rows of the ReFT's task, to train on and to test on.
        console: where tables are printed.

    Raises:
        OSError: the folder cannot be written, or the model cannot be found.
        ValueError: data that are not SST-2 or cannot be read, too few of them, too few pairs; a
            layer that the model lacks.
    """
    console = console or Console()
    began = time.perf_counter()
    # Before minutes of work: a folder that cannot be written, data that cannot be read.
    folder = Path(out)
    check_writable(folder)
    if data is None:
        # Where DAS looks, so that what is probed there is what the ReFTs work with.
        task, on = number_naming(*task_rows, seed=seed), "subject"
    else:
        task, on = sst2(data, n_train=task_rows[0], n_test=task_rows[1], seed=seed), "f3+l3"

    console.rule(f"Loading {model}")
    bridge = load_model(model)
    site = Site("resid_post", round(_DEPTH * bridge.cfg.n_layers) if layer is None else layer)
    site.check(bridge)  # before its prompts are asked

    console.rule("1. A causal variable: the number of the subject")
    counterfactuals = NumberAgreement().counterfactuals(bridge, n=pairs, seed=seed)
    console.print(str(counterfactuals), highlight=False)
    das = fit_das(bridge, counterfactuals.train, site, "subject", rank=_RANK, seed=seed)
    interchange = das.evaluate(counterfactuals.test, seed=seed)
    _print(console, interchange.metric, interchange.to_frame())

    console.rule(f"2. Two ReFTs learn a task: {task.name}")
    console.print(str(task), highlight=False)
    refts = [
        fit_reft(bridge, task.train, template, site, on, seed=seed)
        for template in (LoReFT(rank=_RANK), DiReFT(rank=_RANK))
    ]
    learned = Comparison(
        f"accuracy on {task.name}",
        (
            ("untouched model", (accuracy(bridge, task.test),)),
            *((reft.name, (accuracy(reft.intervened, task.test),)) for reft in refts),
        ),
    )
    _print(console, learned.metric, learned.to_frame())

    console.rule("3. What do their subspaces encode?")
    probes = probe_each(
        refts, against=das, data=counterfactuals.test, task=task.test, variable="number", seed=seed
    )
    for one in probes:
        for note in one.notes:
            console.print(note, highlight=False, markup=False)
        for title, frame in one.tables():
            _print(console, title, frame)

    console.rule("4. The report")
    facts = _facts(bridge, site, counterfactuals, task, on, seed, began)
    for name, result in (("das", das), *((reft.name.lower(), reft) for reft in refts)):
        result.save(folder / "interventions" / name)
    summary = _summary(interchange, learned, probes) | {"seconds": facts["seconds"], "run": facts}
    page = _page(counterfactuals, das, interchange, task, refts, learned, probes, facts)
    page.save(folder)
    write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    console.print(f"The report is in {folder / 'report.html'} ({facts['seconds']:.0f} s)")
    return Demo(folder, summary)


def _print(console: Console, title: str, frame: pd.DataFrame) -> None:
    """As the report shows it: an interval is one column."""
    table = Table(title=title, title_justify="left")
    shown = columns(frame)
    for column in shown:
        table.add_column(column.name, justify="right" if column.kind == "number" else "left")
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(escape, row))
    console.print(table)


def _facts(
    bridge: Any,
    site: Site,
    counterfactuals: Counterfactuals,
    task: LabelledTask,
    on: str,
    seed: int,
    began: float,
) -> dict[str, Any]:
    """All that is needed to run the same again."""
    packages = ("reft-interp", "torch", "transformers", "transformer-lens", "datasets")
    return {
        "model": asdict(identify(bridge)),
        "site": str(site),
        "rank": _RANK,
        "reft_positions": on,
        "seed": seed,
        "counterfactuals": {"variable": counterfactuals.variable, "hash": counterfactuals.hash},
        "task": {"name": task.name, "hash": task.hash},
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "machine": platform.platform(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _summary(
    interchange: Comparison, learned: Comparison, probes: list[ProbeReport]
) -> dict[str, Any]:
    (das,), (whole,), (none,) = (
        interchange[name] for name in ("DAS", "whole vector", "no intervention")
    )
    random = [draw.value for draw in interchange["random subspace"]]
    reft: dict[str, Any] = {}
    for name, (score,) in learned.rows:
        key = "untouched" if name == "untouched model" else name.lower()
        reft[key] = score.value
        reft[f"{key}_interval"] = list(score.interval)
        reft["n"] = score.n
    return {
        "das": {
            "iia": das.value,
            "interval": list(das.interval),
            "n": das.n,
            "whole_vector": whole.value,
            "no_intervention": none.value,
            "random_mean": sum(random) / len(random),
            "random_range": [min(random), max(random)],
            "random_draws": len(random),
        },
        "reft": reft,
        "probe": {
            one.name.lower(): {
                "overlap_with_das": one.overlaps.to_dict("records"),
                "linear": one.linear.to_dict("records"),
                "iia_inside": one.interchange.to_frame().to_dict("records"),
                "removal": one.removal.to_dict("records"),
            }
            for one in probes
        },
    }


def _page(
    counterfactuals: Counterfactuals,
    das: DASResult,
    interchange: Comparison,
    task: LabelledTask,
    refts: list[ReFTResult],
    learned: Comparison,
    probes: list[ProbeReport],
    facts: dict[str, Any],
) -> Report:
    (found,), (whole,) = interchange["DAS"], interchange["whole vector"]
    random = [draw.value for draw in interchange["random subspace"]]
    page = Report(
        "Train an intervention, then probe what its subspace encodes",
        subtitle=f"{facts['model']['name']}, {facts['site']}, rank {facts['rank']}",
        summary=(
            f"On held-out nouns and templates, swapping the subject's grammatical number inside a "
            f"rank-{_RANK} subspace found by DAS gives the expected verb in {_percent(found)} of "
            f"pairs, where swapping the whole vector gives {_percent(whole)} and random subspaces "
            f"{sum(random) / len(random):.1%} (range {min(random):.1%} to {max(random):.1%}). This "
            "is a score: whether the subspace carries the number is for `gather_evidence`, with "
            f"shuffled labels and an untrained model. Accuracy on {task.name}: "
            + ", ".join(f"{name} {_percent(score)}" for name, (score,) in learned.rows)
            + ".\n\n"
            + as_list("\n".join(line for one in probes for line in _compared(one)))
        ),
    )
    page.section(
        "A causal variable: the number of the subject",
        "The base is answered with what its verb should be if its subject had the *source's* "
        "number. Half of the pairs have the same number, so the rate without intervention is a "
        "half by construction, and an edit that always flips the answer gains nothing.\n\n"
        + as_list(str(counterfactuals)),
    )
    page.figure(
        interchange.plot(),
        caption=f"{interchange.metric}. {INTERVALS}",
        name="das-interchange",
    )
    page.table(
        interchange.to_frame(),
        caption=f"{interchange.metric}. {INTERVALS}",
        name="das-interchange",
    )
    page.section(
        "Two ReFTs learn a task",
        f"Both edit {facts['site']} on {facts['reft_positions']}.\n\n{as_list(str(task))}",
    )
    page.figure(
        learned.plot(reference=task.majority, reference_label="majority"),
        caption="Accuracy on held-out rows, 95 % Wilson intervals; the line is the majority.",
        name="reft-accuracy",
    )
    page.table(learned.to_frame(), caption=learned.metric, name="reft-accuracy")
    losses = pd.concat(
        [
            result.losses.assign(series=name)
            for name, result in (("DAS", das), *((reft.name, reft) for reft in refts))
        ],
        ignore_index=True,
    )
    page.figure(
        plotting.loss_curve(
            losses,
            step="step",
            loss="loss",
            series="series",
            ylabel="cross-entropy (nats per answer token)",
        ),
        caption="Training losses, each on its own data. That of DAS does not reach zero: many "
        "verbs may follow a phrase, and its label is one of them.",
        name="losses",
    )
    add_probes(page, probes)
    page.footer(facts)
    return page


def _compared(probe: ProbeReport) -> list[str]:
    """What a trained intervention has to do with the subspace of the causal variable."""
    inside = probe.interchange.to_frame().set_index("method")
    said = []
    for at in probe.overlaps.to_dict("records"):
        swap = inside.loc[at["subspace"]]
        said.append(
            f"{at['subspace']}: overlap with the DAS subspace {at['overlap']:.3f} (random "
            f"{at['random low']:.3f} to {at['random high']:.3f}), an interchange inside it gives "
            f"the expected verb in {swap['value']:.1%} [{swap['low']:.1%}, {swap['high']:.1%}]."
        )
    return said


def _percent(score: Accuracy) -> str:
    low, high = score.interval
    return f"{score.value:.1%} [{low:.1%}, {high:.1%}]"
