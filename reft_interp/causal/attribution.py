"""Attribution patching: what activation patching would do, estimated by one backward pass.

(source − base) · gradient of the logit difference: Nanda 2023, "Attribution Patching: Activation
Patching At Industrial Scale"; Syed, Rager and Conmy 2023 (arXiv:2310.10348). A first-order
estimate, so it screens a sweep and does not replace it; `Attribution.recall` says what a screening
would lose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.interchanges import On, rows_of_one_source
from reft_interp.causal.patching import Patching, heatmap_of_places
from reft_interp.causal.rows import Pairs
from reft_interp.evaluation.choices import choice_tokens
from reft_interp.evaluation.results import mean_and_interval
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.runtime.batching import beside_answers, by_length, choices_of, encode
from reft_interp.runtime.running import answer_starts, is_causal, record
from reft_interp.selector import check_alignment
from reft_interp.sites import Site

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Attribution:
    """Estimated changes of the logit difference."""

    sites: tuple[Site, ...]
    on: tuple[str, ...]
    """The selections of tokens, as text."""
    estimate: Float[np.ndarray, "sites on rows"] = field(repr=False)
    """How much patching there would move the logit of the label less the mean of the other
    choices."""

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: site, tokens, estimate (mean over rows), low, high (95 %, Student's t),
        and size, the mean over rows of its absolute value."""
        lines = []
        for i, site in enumerate(self.sites):
            for j, on in enumerate(self.on):
                value, low, high = mean_and_interval(self.estimate[i, j])
                size = float(np.abs(self.estimate[i, j]).mean())
                lines.append(
                    {"site": str(site), "tokens": on, "estimate": value}
                    | {"low": low, "high": high, "size": size}
                )
        return pd.DataFrame(lines)

    def __str__(self) -> str:
        return self.to_frame().to_string(index=False, float_format="{:.3f}".format)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format="{:.3f}".format)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """A heat map of the mean estimate: layers up, or sites down if they are of several
        components, and selections of tokens across.

        Args:
            ax: where; a figure of its own by default.
        """
        return heatmap_of_places(
            self.to_frame(),
            self.sites,
            "estimate",
            "Attribution of",
            "estimated change of logit difference",
            ax,
        )

    def best(self, n: int) -> list[tuple[Site, str]]:
        """The n cells with the largest size, largest first: what a screened sweep would run.

        Raises:
            ValueError: n is not between 1 and the number of cells.
        """
        places = self._places(n=n)
        sizes = np.abs(self.estimate).mean(-1).reshape(-1)
        return [places[i] for i in np.argsort(-sizes, kind="stable")[:n]]

    def recall(self, full: Patching, n: int, *, keep: int | None = None) -> float:
        """The share of a full sweep's n best cells that screening keeps.

        Args:
            full: activation patching of the same pairs, sites and tokens.
            n: how many of its cells matter: those that move the logit difference most.
            keep: how many cells the screening keeps; n by default.

        Raises:
            ValueError: `full` has other sites, tokens or rows; n or `keep` is not between 1 and
                the number of cells.
        """
        if (full.sites, full.on, full.patched.shape) != (self.sites, self.on, self.estimate.shape):
            raise ValueError(
                "full must be of the same sites, tokens and rows as the attribution, "
                f"{_cells(self.sites, self.on, self.estimate)}; got "
                f"{_cells(full.sites, full.on, full.patched)}"
            )
        places = self._places(n=n) if keep is None else self._places(n=n, keep=keep)
        moved = np.abs(full.patched - full.untouched).mean(-1).reshape(-1)
        wanted = {places[i] for i in np.argsort(-moved, kind="stable")[:n]}
        return len(wanted & set(self.best(n if keep is None else keep))) / n

    def _places(self, **counts: int) -> list[tuple[Site, str]]:
        """All cells, of which there are as many as each of the counts."""
        places = [(site, on) for site in self.sites for on in self.on]
        for name, n in counts.items():
            if not 1 <= n <= len(places):
                raise ValueError(f"{name} must be between 1 and {len(places)}, the cells, got {n}")
        return places


def _cells(sites: Sequence[Site], on: Sequence[str], of: Float[np.ndarray, "_ _ rows"]) -> str:
    return f"{', '.join(map(str, sites))} on {', '.join(on)} in {of.shape[-1]} rows"


def attribution_patching(
    model: TransformerBridge,
    pairs: Pairs,
    sites: Sequence[Site],
    on: Sequence[On],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> Attribution:
    """Estimate `activation_patching` at every site and selection of tokens, together.

    Two runs and one backward pass a batch, however many cells there are.

    Args:
        model: the hooked model.
        pairs: counterfactual rows with `choices` of one token each, one of them the `label`.
        sites: where.
        on: which tokens of base and source, one selection a column.
        batch_size: pairs run at once.
        progress: show a progress bar.

    Raises:
        ValueError: no sites or selections; several sources; a pair without choices of one
            token, or whose label is neither.
    """
    if not sites or not on:
        raise ValueError(f"sites and on must not be empty, got {len(sites)} and {len(on)}")
    for site in sites:
        site.check(model)
    bases, sources = rows_of_one_source(pairs)
    targets = [_targets(i, row, ids) for i, (row, ids) in enumerate(_with_tokens(model, bases))]
    selectors = [parse_positions(one) for one in on]
    found = np.zeros((len(sites), len(selectors), len(bases)))
    groups = list(by_length(bases, batch_size))
    for group in tqdm(groups, disable=not progress, desc="attribution", leave=False):
        found[..., group] = _estimates(
            model,
            [bases[i] for i in group],
            [sources[i] for i in group],
            [targets[i] for i in group],
            sites,
            selectors,
        )
    return Attribution(tuple(sites), tuple(map(str, selectors)), found)


def _with_tokens(model: TransformerBridge, rows: Sequence[Any]) -> Any:
    return zip(rows, choice_tokens(model, rows), strict=True)


def _targets(number: int, row: Any, tokens: Sequence[tuple[int, ...]]) -> tuple[int, list[int]]:
    """The label's token, and the other choices'."""
    choices = choices_of(row, f"pairs: row {number}")
    if len(choices) < 2 or row["answer"] not in choices or any(len(ids) != 1 for ids in tokens):
        raise ValueError(
            f"pairs: row {number} must have two or more choices of one token each and its label "
            f"among them, got choices {choices} and label {row['answer']!r}"
        )
    label = choices.index(row["answer"])
    return tokens[label][0], [ids[0] for i, ids in enumerate(tokens) if i != label]


def _estimates(
    model: TransformerBridge,
    bases: Sequence[Any],
    sources: Sequence[Any],
    targets: Sequence[tuple[int, list[int]]],
    sites: Sequence[Site],
    selectors: Sequence[PositionSelector],
) -> Float[np.ndarray, "sites on rows"]:
    # An encoder answers in the place of a mask, which is there only with an answer.
    base = encode(model, bases, answers=not is_causal(model))
    source = beside_answers(model, encode(model, sources), base)
    answered = answer_starts(model, base)
    at_base = [select(base) for select in selectors]
    at_source = [select(source) for select in selectors]
    for select, ours, theirs in zip(selectors, at_base, at_source, strict=True):
        check_alignment(select, ours, theirs, base, source)
    cells = [(site, j) for site in sites for j in range(len(selectors))]
    with torch.no_grad():
        held = record(model, source, [(site, at_source[j]) for site, j in cells])
    activations: dict[str, Tensor] = {}

    def keeper(name: str):
        def keep(activation: Tensor, hook: Any) -> Tensor:
            # The first of them is where the graph begins: the weights below are frozen.
            kept = activation if activation.requires_grad else activation.detach().requires_grad_()
            activations[name] = kept
            return kept

        return name, keep

    names = list(dict.fromkeys(site.hook_name for site in sites))
    with torch.enable_grad(), model.hooks(fwd_hooks=[keeper(name) for name in names]):
        logits = model(base.input_ids, attention_mask=base.attention_mask, return_type="logits")
        last = answered.read(logits)
        difference = torch.stack(
            [
                of[label] - of[others].mean()
                for of, (label, others) in zip(last, targets, strict=True)
            ]
        )
        gradients = torch.autograd.grad(
            difference.sum(), [activations[name] for name in names], allow_unused=True
        )
    of_name = dict(zip(names, gradients, strict=True))
    found = np.zeros((len(sites), len(selectors), len(bases)))
    for n, ((site, j), theirs) in enumerate(zip(cells, held, strict=True)):
        gradient = of_name[site.hook_name]
        if gradient is None:  # nothing that the logits depend on
            continue
        ours = site.read(activations[site.hook_name].detach(), at_base[j])
        each = ((theirs - ours) * site.read(gradient, at_base[j])).sum(-1)
        summed = torch.zeros(len(bases), device=each.device)
        summed.index_add_(0, at_base[j].rows, each.float())
        found[divmod(n, len(selectors))] = summed.cpu().numpy()
    return found
