"""What a comparison of methods found: one table, one figure, and the trained methods themselves.

Next door: `comparing` runs one; `compared_subspaces` asks what its ReFTs encode.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import t as student
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.evaluation import Accuracy
from reft_interp.evaluation.metric_scores import of_rows_by, resampled
from reft_interp.evaluation.results import interval_of_alike
from reft_interp.interop.plain_finetuning import REFT_FOLDER
from reft_interp.runtime import IntervenedModel
from reft_interp.sweeps.ablations import settings, varied
from reft_interp.sweeps.folder import read_json
from reft_interp.tasks.suites import Suite
from reft_interp.training.class_finetuning import HeadAlone
from reft_interp.training.classifier_saving import is_classifier
from reft_interp.training.prompting import Untouched
from reft_interp.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from reft_interp.sweeps.subspace_comparison import SubspaceComparison

_RESAMPLES = 500


@dataclass(frozen=True, eq=False, repr=False)
class MethodComparison:
    """Methods on a suite, each with the same budget; written to a folder as it was found.

    `compare` makes it, and reads a finished one back from its folder, called again with the same
    model, suite, methods and budget. `load` is for one of its trained ReFTs; one of an encoder is
    `Classifier.load(found.trained_folder("LoReFT", 0), model)`, with its head.
    """

    folder: Path
    suite: str
    metric: str
    frame: pd.DataFrame = field(repr=False)
    """One row a method and test set: method, dataset, score, low, high (95 %, over seeds and
    rows), unparsed (share of outputs in which no answer was found: they are wrong, and guesses in
    a correlation), n (test rows), seeds, parameters (trained ones; on an encoder without those of
    its head, as Wu et al. 2024 count), share (of the model's), head_parameters (of an encoder's
    head, trained besides, as many for every method that trains; 0 on a decoder), memory (bytes
    above what was held before, at the peak), seconds_per_step, preparation_seconds (once before the
    first step: constants of the frozen model), seconds_to_target (of steps), file_bytes (the head
    included), chosen (the tuned setting), error. What was not measured is NaN."""
    target: float
    """Loss on the development rows (nats a token; on an encoder as `compare` says) that
    `seconds_to_target` is the training time to: the lowest that every training reaches. It is
    measured after each quarter of the steps."""
    runs: Sequence[Mapping[str, Any]] = field(repr=False)
    """Each method's trials and runs, with all outputs, as they are on disk."""
    suite_hash: str | None = field(default=None, repr=False)
    """Of the rows that it was run on, `Suite.hash`."""

    def load(self, method: str, model: TransformerBridge, *, seed: int = 0) -> IntervenedModel:
        """A trained ReFT of the comparison, placed in the model; `compare` reads the table back.

        Args:
            method: its name in the table.
            model: the model that it was trained in.
            seed: which of its trainings.

        Raises:
            ValueError: no such method, or one whose ReFT was trained together with adapters or with
                a classifier's head.
            FileNotFoundError: it was not trained with this seed, or is no ReFT.
        """
        folder = self.trained_folder(method, seed)
        if is_classifier(folder):
            raise ValueError(
                f"{method} was trained with the head of a classifier: "
                f"Classifier.load({str(folder)!r}, model) has both"
            )
        if (beside := folder / REFT_FOLDER).is_dir():
            raise ValueError(
                f"{method} was trained with adapters, which a hooked model cannot hold: "
                f"IntervenedModel.load({str(beside)!r}, model) is its ReFT without them, and "
                f"peft.PeftModel.from_pretrained(plain_model, {str(folder)!r}) the adapters "
                "without it"
            )
        return IntervenedModel.load(folder, model)

    def trained_folder(self, method: str, seed: int) -> Path:
        """Where what a method learned is.

        Raises:
            ValueError: no such method.
        """
        names = [run["method"] for run in self.runs]
        if method not in names:
            raise ValueError(f"method must be one of {', '.join(names)}, got {method!r}")
        return self.folder / "trained" / f"{names.index(method):02}-seed-{seed}"

    def probe(
        self,
        model: TransformerBridge,
        suite: Suite,
        *,
        others: "Sequence[MethodComparison]" = (),
    ) -> "SubspaceComparison":
        """Ask what the subspaces of its ReFTs encode; `compare_subspaces` has the settings.

        Args:
            model: the model that it was run on.
            suite: the suite that it was run on.
            others: comparisons on other suites, whose subspaces are compared with these.

        Raises:
            ValueError: as `compare_subspaces`.
        """
        from reft_interp.sweeps.compared_subspaces import compare_subspaces

        return compare_subspaces(self, model, suite, others=others)

    def plot(self, dataset: str | None = None, *, ax: "Axes | None" = None) -> "Axes":
        """Score against trained parameters without a head's; what trains no others is a line.

        Args:
            dataset: which test set; the mean over all by default, without intervals where there
                are several.
            ax: where to draw; a figure of its own by default.

        Raises:
            ValueError: no such test set, or no method that came to its end (the message gives the
                error of each).
        """
        from reft_interp import plotting

        some = self.frame[self.frame["error"].isna()]
        if some.empty:
            errors = [f"{one['method']}: {one['error']}" for one in self.runs if one["error"]]
            raise ValueError(f"no method came to its end: {'; '.join(errors)}")
        known = self._datasets(dataset)
        if dataset is not None or len(known) == 1:
            shown: Any = some[some["dataset"] == (dataset or known[0])]
        else:
            shown = some.groupby("method", sort=False, as_index=False)[
                ["score", "parameters"]
            ].mean()
            shown = shown.assign(low=np.nan, high=np.nan)
        return plotting.trade_off(
            shown, cost="parameters", value="score", label="method",
            xlabel="trained parameters", ylabel=self.metric,
            title=f"{self.suite}{'' if dataset is None else f': {dataset}'}", ax=ax,
        )  # fmt: skip

    def settings(self) -> pd.DataFrame:
        """Of each ReFT what it is: method, intervention, rank, layers, on, tied, component."""
        return settings(read_json(self.folder / "comparison.json")["methods"])

    def plot_setting(
        self, setting: str, dataset: str | None = None, *, ax: "Axes | None" = None
    ) -> "Axes":
        """Score against one setting of ReFTs, for each kind of intervention; see `ablations`.

        Of each kind the first ReFT is shown, and those that differ from it in this setting alone;
        a line is the untouched model, or the head alone on an encoder.

        Args:
            setting: "rank", "layers", "on", "tied" or "component".
            dataset: which test set; the first by default.
            ax: where to draw; a figure of its own by default.

        Raises:
            ValueError: no such setting or test set, or ReFTs that do not differ in it.
        """
        from reft_interp import plotting

        known = self._datasets(dataset)
        scores: Any = self.frame[self.frame["dataset"] == (dataset or known[0])]
        shown = varied(self.settings(), setting).merge(scores, on="method")
        untouched = scores[scores["method"].isin([Untouched.name, HeadAlone.name])]
        return plotting.grouped_intervals(
            shown.assign(**{setting: [f"{setting} {value}" for value in shown[setting]]}),
            value="score", label=setting, group="intervention",
            reference=None if untouched.empty else float(untouched["score"].iloc[0]),
            reference_label=Untouched.name if untouched.empty else str(untouched["method"].iloc[0]),
            xlabel=self.metric,
            title=f"{dataset or known[0]} by {setting}", ax=ax,
        )  # fmt: skip

    def _datasets(self, wanted: str | None) -> list[str]:
        """The test sets, the wanted one among them."""
        known = list(dict.fromkeys(self.frame["dataset"].dropna()))
        if wanted is not None and wanted not in known:
            raise ValueError(f"dataset must be one of {', '.join(known)}, got {wanted!r}")
        return known

    def save(self) -> tuple[Path, Path]:
        """Write the table and the figure into the folder: `table.csv`, `parameters.png`.

        Raises:
            ValueError: no method came to its end, so that there is no figure; the table is written.
        """
        from reft_interp import plotting

        table, picture = self.folder / "table.csv", self.folder / "parameters.png"
        write_whole(table, self.frame.to_csv(index=False))
        plotting.save_figure(self.plot(), picture)
        return table, picture

    def __str__(self) -> str:
        shown = self._shown()
        shown["parameters"] = [_count(x) for x in shown["parameters"]]
        shown["memory"] = [_size(x) for x in shown.pop("memory")]
        shown["file"] = [_size(x) for x in shown.pop("file_bytes")]
        shown["share"] = [f"{100 * x:.3f} %" if x == x else "" for x in shown["share"]]
        shown["chosen"] = [f"{x:g}" if x == x else "" for x in shown["chosen"].astype(float)]
        del shown["error"]
        said = "what is generated"
        if "head_parameters" in shown:
            said = "what is predicted"
            shown["head_parameters"] = [_count(x) for x in shown["head_parameters"]]
        lines = [
            f"{self.suite}: {self.metric} of {said} [95 % over seeds and rows]; seconds "
            f"to a development loss of {self.target:.3f}",
            shown.astype(object)
            .where(shown.notna(), "")
            .to_string(index=False, float_format="{:.3f}".format),
            *(f"{one['method']}: {one['error']}" for one in self.runs if one["error"]),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self._shown().to_html(index=False, float_format="{:.3f}".format)

    def _shown(self) -> pd.DataFrame:
        """The table, with the head's parameters where there is a head."""
        has_head = bool((self.frame["head_parameters"] > 0).any())
        return self.frame.drop(columns=[] if has_head else ["head_parameters"]).copy()


def summarize(
    folder: Path, suite: Suite, found: Sequence[Mapping[str, Any]], parameters: int, steps: int
) -> MethodComparison:
    """The table of a comparison that is finished.

    Args:
        folder: of the comparison.
        suite: whose metric scores the outputs.
        found: each method, as `ComparisonRun.finished` reads it.
        parameters: of the model.
        steps: of each training.
    """
    measured = [run["curve"] for one in found for run in one["runs"] if run["curve"]]
    target = max((min(loss for _, _, loss in curve) for curve in measured), default=float("nan"))
    rows: list[dict[str, Any]] = []
    for one in found:
        if one["error"] is not None:
            rows.append({"method": one["method"], "error": one["error"]})
            continue
        runs = one["runs"]
        head = runs[0].get("head parameters", 0)  # a comparison on disk may be older
        trained = runs[0]["parameters"] + head
        cost = {
            "seeds": len(runs),
            "parameters": runs[0]["parameters"],
            "share": runs[0]["parameters"] / parameters,
            "head_parameters": head,
            "memory": _most(run["memory"] for run in runs) if trained else np.nan,
            "seconds_per_step": float(np.mean([run["seconds"] for run in runs])) / steps or np.nan,
            "preparation_seconds": runs[0]["preparation seconds"],
            "seconds_to_target": _seconds_to(target, runs),
            "file_bytes": runs[0]["bytes"],
            "chosen": one["chosen"],
            "error": None,
        }
        for name, split in suite.tests.items():
            outputs = [run["outputs"][name] for run in runs]
            value, low, high = mean_score(suite, outputs, split)
            unparsed = np.mean([one is None for of in outputs for one in suite.answers(of, split)])
            rows.append(
                {"method": one["method"], "dataset": name, "score": value, "low": low,
                 "high": high, "unparsed": float(unparsed), "n": len(split), **cost}
            )  # fmt: skip
    columns = (
        "method dataset score low high unparsed n seeds parameters share head_parameters memory "
        "seconds_per_step preparation_seconds seconds_to_target file_bytes chosen error"
    ).split()
    frame = pd.DataFrame(rows, columns=columns).astype({"n": "Int64", "seeds": "Int64"})
    return MethodComparison(folder, suite.name, suite.metric.name, frame, target, found, suite.hash)


def mean_score(
    suite: Suite, outputs: Sequence[Sequence[str]], rows: Any, *, seed: int = 0
) -> tuple[float, float, float]:
    """The mean score over trainings, and the ends of its 95 % interval.

    Two sources of chance are added up: which rows were tested (Wilson's interval for a share of
    rows, bootstrap for other metrics, `interval_of_alike` where all resamples score alike; the same
    rows for all trainings) and which trainings they were (Student's t over seeds).

    Args:
        suite: whose metric it is.
        outputs: of each training, one a row.
        rows: with `gold`.
        seed: of the resamples.
    """
    gold = list(rows["gold"])
    each = [of_rows_by(suite.metric, suite.answers(of, rows), gold) for of in outputs]
    scores = np.array([of_rows(np.arange(len(gold))) for of_rows in each])

    def mean(chosen: np.ndarray) -> float:
        return float(np.mean([of_rows(chosen) for of_rows in each]))

    value = float(scores.mean())
    error = 0.0
    if suite.metric.is_correct is None and len(gold) > 1:
        error = float(resampled(mean, len(gold), _RESAMPLES, seed=seed).standard_error)
    if suite.metric.is_correct is not None:
        low, high = Accuracy(round(value * len(gold)), len(gold)).interval
    elif error:
        low, high = value - 1.96 * error, value + 1.96 * error
    else:
        low, high = interval_of_alike(value, len(gold), suite.metric.bounds)
    of_seeds = 0.0
    if len(scores) > 1:
        spread = scores.var(ddof=1) / len(scores)
        of_seeds = spread * float(student.ppf(0.975, len(scores) - 1)) ** 2
    low = value - math.hypot(value - low, of_seeds**0.5)
    high = value + math.hypot(high - value, of_seeds**0.5)
    least, most = suite.metric.bounds
    return value, max(low, least), min(high, most)


def _seconds_to(target: float, runs: Sequence[Mapping[str, Any]]) -> float:
    """Mean over trainings of the seconds until the loss was met; NaN where one never met it."""
    until = []
    for run in runs:
        met = [seconds for _, seconds, loss in run["curve"] if loss <= target]
        until.append(met[0] if met else np.nan)
    return float(np.mean(until)) if until else float("nan")


def _most(values: Any) -> float:
    known = [value for value in values if value is not None]
    return float(max(known)) if known else float("nan")


def _count(number: int | float) -> str:
    return f"{int(number):,}" if number == number else ""


def _size(number: int | float) -> str:
    if number != number:
        return ""
    return f"{number / 2**20:.0f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"
