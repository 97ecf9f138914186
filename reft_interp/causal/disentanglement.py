"""Does an interchange change one attribute, and leave the others alone? RAVEL's scores.

Huang et al. 2024 (arXiv:2402.17700), section 2: Cause is how often an interchange of an attribute's
features gives the source's value of that attribute; Isolate, how often the others stay what they
were, averaged over them; Disentangle is the mean of the two.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.stats import bootstrap
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.interchanges import On, prepare_interchanges
from reft_interp.causal.method_comparison import check_methods, with_untrained
from reft_interp.causal.methods import Method
from reft_interp.evaluation import prepared_correct
from reft_interp.evaluation.results import interval_of_alike
from reft_interp.sites import Site, check_site

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EVERY = "mean"


@dataclass(frozen=True, eq=False)
class Disentanglement:
    """What several methods score on several attributes."""

    site: Site
    frame: pd.DataFrame = field(repr=False)
    """One row a method and attribute, and "mean" over attributes: method, attribute, cause,
    isolate, disentangle, low, high (95 %, bootstrap over pairs; Wilson's, averaged likewise, where
    each kind of pair is all right or all wrong), n."""

    def __str__(self) -> str:
        shown = self.frame.to_string(index=False, float_format="{:.3f}".format)
        return f"RAVEL's scores at {self.site} [95 % interval of disentangle]\n{shown}"

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, float_format="{:.3f}".format)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The mean over attributes, one line a method."""
        from reft_interp import plotting  # printing a result should not need matplotlib

        means = self.frame.loc[self.frame["attribute"] == _EVERY]
        return plotting.intervals(
            means,
            value="disentangle",
            label="method",
            reference=0.5,
            reference_label="no intervention",
            title="",
            xlabel="disentangle: mean of cause and isolate",
            ax=ax,
        )


def disentanglement(
    model: TransformerBridge,
    pairs: Sequence[Counterfactuals],
    site: Site,
    on: On,
    methods: Sequence[Method],
    *,
    batch_size: int = 128,
    progress: bool = True,
) -> Disentanglement:
    """Fit each method for each attribute, and score it on held-out pairs as RAVEL does.

    What the model says is its greedy tokens, all of the answer's: no choices are offered.

    Args:
        model: the hooked model.
        pairs: for each attribute its counterfactuals, as `RAVELKnowledge.pairs` makes them: with
            the columns `kind` ("cause" or "isolate") and `asked`.
        site: where.
        on: which tokens of base and source, as in "entity".
        methods: see `causal.methods`; names must differ. Those without `isolate=True` are fitted
            to the rows of kind "cause" alone. Those whose maps are free have a line more, fitted
            to and scored on an untrained copy of the model.
        batch_size: rows run at once.
        progress: show a progress bar.

    Raises:
        TypeError: `methods` are no list of methods, or `site` is no Site.
        ValueError: no methods, two of one name, one of a rank above the site's width, two pairs of
            one attribute, rows of no kind, or fewer than two held-out rows of kind "cause" or of
            one that asks for another attribute.
    """
    check_site(site)
    check_methods(methods, site.width(model))
    attributes = [of.variable for of in pairs]
    if not pairs or len(set(attributes)) != len(attributes):
        raise ValueError(f"pairs must be one or more, of different attributes, got {attributes}")
    for of in pairs:
        _check_kinds(of)
    runs = list(with_untrained(model, methods))
    lines, strata = [], {name: [] for _, named in runs for name in named}
    with tqdm(
        total=len(pairs) * len(strata), disable=not progress, desc="methods", leave=False
    ) as bar:
        for of, (of_model, named) in itertools.product(pairs, runs):
            fitted = []
            for method in named.values():
                rows = of.train if getattr(method, "isolate", False) else _of_cause(of.train)
                fitted.append((method.fit(of_model, rows, of.variable, site, on), site, on))
                bar.update()
            # Without choices, so that what the model says is compared with the answer alone.
            test = of.test.remove_columns("choices")
            scored = prepare_interchanges(of_model, test, fitted)
            for name, right in zip(
                named, prepared_correct(scored, batch_size=batch_size), strict=True
            ):
                parts = _by_asked(of.test, right)
                strata[name].append(parts)
                lines.append({"method": name, "attribute": of.variable} | _scores([parts]))
    means = [
        {"method": name, "attribute": _EVERY} | _scores(of_all) for name, of_all in strata.items()
    ]
    return Disentanglement(site, pd.DataFrame([*lines, *means]))


def _check_kinds(pairs: Counterfactuals) -> None:
    for name, split in pairs.splits.items():
        missing = {"kind", "asked"} - set(split.column_names)
        kinds = set() if missing else set(split["kind"])
        if kinds != {"cause", "isolate"}:
            raise ValueError(
                f"pairs: {name} rows of {pairs.variable!r} must have the columns kind (cause and "
                f"isolate) and asked, got {sorted(split.column_names)} with kinds {sorted(kinds)}"
            )
    asked = zip(pairs.test["kind"], pairs.test["asked"], strict=True)
    for (kind, of), n in Counter((k, "" if k == "cause" else str(a)) for k, a in asked).items():
        if n < 2:
            about = "" if kind == "cause" else f" that ask for {of!r}"
            raise ValueError(
                f"pairs: test of {pairs.variable!r} must have two or more rows of kind {kind!r}"
                f"{about}, or their share has no interval, got {n}"
            )


def _of_cause(split: Dataset) -> Dataset:
    return split.select([i for i, kind in enumerate(split["kind"]) if kind == "cause"])


def _by_asked(split: Dataset, right: np.ndarray) -> Mapping[str, np.ndarray]:
    """What was right, "cause" first, then attribute by attribute of those that should stay."""
    frame = pd.DataFrame({"kind": split["kind"], "asked": split["asked"], "right": right})
    isolated = frame.loc[frame["kind"] == "isolate"].groupby("asked", sort=True)["right"]
    return {
        "cause": frame.loc[frame["kind"] == "cause", "right"].to_numpy(float),
        **{str(asked): of.to_numpy(float) for asked, of in isolated},
    }


def _scores(of_attributes: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float | int]:
    """Mean over attributes of cause, isolate and disentangle, with the interval of the last."""
    samples = [part for parts in of_attributes for part in parts.values()]
    cause, isolate = _cause_and_isolate(of_attributes, samples)
    value = (cause + isolate) / 2
    if any(np.ptp(sample) for sample in samples):
        interval = bootstrap(
            samples,
            # Each attribute's questions are a sample of their own: their shares are averaged.
            lambda *drawn: np.mean(_cause_and_isolate(of_attributes, drawn)),
            n_resamples=1000,
            method="percentile",
            vectorized=False,
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    else:  # nothing varies from resample to resample
        ends = [interval_of_alike(part.mean(), len(part), (0.0, 1.0)) for part in samples]
        low, high = (
            float(np.mean(_cause_and_isolate(of_attributes, [np.array(one) for one in side])))
            for side in zip(*ends, strict=True)
        )
    return {
        "cause": cause,
        "isolate": isolate,
        "disentangle": value,
        "low": low,
        "high": high,
        "n": sum(map(len, samples)),
    }


def _cause_and_isolate(
    of_attributes: Sequence[Mapping[str, np.ndarray]], samples: Sequence[np.ndarray]
) -> tuple[float, float]:
    """From samples in the order of the attributes' parts: the mean of each kind."""
    means = iter([float(np.mean(sample)) for sample in samples])
    causes, isolates = [], []
    for parts in of_attributes:
        first, *others = [next(means) for _ in parts]
        causes.append(first)
        isolates.append(np.mean(others))
    return float(np.mean(causes)), float(np.mean(isolates))
