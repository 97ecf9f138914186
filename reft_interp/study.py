"""A study as a small YAML file: which model, which pairs, and the cells of a sweep.

`reft-interp sweep study.yaml` runs one.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import yaml
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals, DASCell
from reft_interp.evaluation.minimum_accuracy import check_share
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.sites import Component, Site
from reft_interp.sweeps import grid
from reft_interp.sweeps.screened import screened_cells
from reft_interp.tasks import NumberAgreement

_NUMBERS = ("learning_rate", "screen", "minimum_accuracy")


@dataclass(frozen=True)
class Study:
    """What a study file says. A missing key has the default that stands here.

    Args:
        model: what `load_model` takes.
        counterfactuals: "number agreement", or a folder that `Counterfactuals.save` wrote.
        pairs: how many are made, where they are made.
        components: of the model, as in "resid_post".
        layers: numbers, or "all".
        heads: numbers, or "all": one site for each head where the component is "z", which must be
            among the components; the whole component by default, and for other components.
        tokens: selectors, as in "subject" or "last".
        ranks: of the subspaces.
        seeds: of the searches.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        seed: of the pairs.
        screen: share of the places (sites and tokens) that are searched, those where swapping the
            whole vector should move the answer most (see `screen_cells`); 1 for all.
        minimum_accuracy: share of prompts that the model must get right without an intervention,
            where pairs are made and before they are searched (see `sweep`).

    Raises:
        ValueError: a value that no study can have.
    """

    model: str = "smollm2"
    counterfactuals: str = NumberAgreement.name
    pairs: int = 600
    components: Sequence[Component] = ("resid_post",)
    layers: Sequence[int] | str = "all"
    heads: Sequence[int] | str | None = None
    tokens: Sequence[str | int] = ("last",)
    ranks: Sequence[int] = (1,)
    seeds: Sequence[int] = (0,)
    epochs: int = 3
    learning_rate: float = 5e-3
    batch_size: int = 16
    seed: int = 0
    screen: int | float = 1
    minimum_accuracy: int | float = 0.7

    def __post_init__(self) -> None:
        for name in ("model", "counterfactuals"):
            given = getattr(self, name)
            if not isinstance(given, str) or not given:
                raise ValueError(f"{name} must be a name or a folder, got {given!r}")
        for name in ("components", "tokens", "ranks", "seeds"):
            given = getattr(self, name)
            if not _is_list(given) or not given:
                raise ValueError(f"{name} must be a list of at least one, got {given!r}")
        for name in ("layers", "heads"):
            given = getattr(self, name)
            unset = name == "heads" and given is None
            if not unset and given != "all" and (not _is_list(given) or not given):
                raise ValueError(f'{name} must be a list of numbers, or "all", got {given!r}')
        for one in self.components:
            if one not in get_args(Component):
                raise ValueError(
                    f"each of components must be one of {', '.join(get_args(Component))}, got "
                    f"{one!r}"
                )
        if self.heads is not None and "z" not in self.components:
            raise ValueError(
                f"heads are parts of the component z, which is not among components, "
                f"{list(self.components)}"
            )
        for name, least in (("ranks", 1), ("seeds", 0), ("layers", 0), ("heads", 0)):
            given = getattr(self, name)
            for one in given if _is_list(given) else ():
                _check_whole(f"each of {name}", one, least)
        selectors = [_selector(one) for one in self.tokens]
        for name in ("components", "layers", "heads", "tokens", "ranks", "seeds"):
            given = getattr(self, name)
            if _is_list(given):
                _check_once(name, given, selectors if name == "tokens" else given)
        for name, least in (("pairs", 1), ("epochs", 1), ("batch_size", 1), ("seed", 0)):
            _check_whole(name, getattr(self, name), least)
        for name in _NUMBERS:
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise ValueError(f"{name} must be a number, got {given!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not 0 < self.screen <= 1:
            raise ValueError(f"screen must be above 0 and at most 1, got {self.screen}")
        check_share("minimum_accuracy", self.minimum_accuracy)

    @classmethod
    def read(cls, file: str | Path) -> "Study":
        """Read a study file.

        Raises:
            ValueError: no such file, not YAML, an unknown key (the message lists the known), or
                a value that no study can have.
        """
        path = Path(file)
        if not path.is_file():
            raise ValueError(f"study must be a YAML file, got {str(path)!r}, which is no file")
        try:
            held: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(held, dict):
            raise ValueError(f"{path} must hold keys and values, as `model: smollm2`")
        known = [one.name for one in fields(cls)]
        if unknown := [str(key) for key in held if key not in known]:
            raise ValueError(
                f"{path}: {unknown[0]!r} is no key of a study; they are {', '.join(known)}"
            )
        # YAML takes 5e-3 for text; with a dot, 5.0e-3, it would be a number.
        for name in _NUMBERS:
            with suppress(ValueError):
                if isinstance(held.get(name), str):
                    held[name] = float(held[name])
        try:
            return cls(**held)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    def read_pairs(self) -> Counterfactuals | None:
        """The counterfactuals of a folder; None where they are made for the model.

        Raises:
            ValueError: as `Counterfactuals.load`.
        """
        if self.counterfactuals == NumberAgreement.name:
            return None
        return Counterfactuals.load(self.counterfactuals)

    def make_pairs(self, model: TransformerBridge) -> Counterfactuals:
        """The counterfactuals: made for the model, or read.

        Raises:
            ValueError: as `NumberAgreement.counterfactuals` and `Counterfactuals.load`.
        """
        return self.read_pairs() or NumberAgreement().counterfactuals(
            model,
            n=self.pairs,
            seed=self.seed,
            minimum_accuracy=float(self.minimum_accuracy),
        )

    def cells(self, model: TransformerBridge) -> list[DASCell]:
        """Every combination, for a model.

        Raises:
            ValueError: a site that the model lacks.
        """
        layers = range(model.cfg.n_layers) if isinstance(self.layers, str) else self.layers
        heads = range(model.cfg.n_heads) if isinstance(self.heads, str) else self.heads or [None]
        sites = [
            Site(component, layer, head)
            for component in self.components
            for layer in layers
            # A study of heads beside whole components: only this one has heads.
            for head in (heads if component == "z" else [None])
        ]
        for site in sites:
            site.check(model)
        return grid(
            sites,
            list(self.tokens),
            ranks=self.ranks,
            seeds=self.seeds,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )

    def screened_cells(
        self, model: TransformerBridge, pairs: Counterfactuals, folder: Path
    ) -> list[DASCell]:
        """Those combinations that are searched: all, or what the screening leaves, which is kept
        in the sweep's folder.

        Raises:
            ValueError: as `cells`, and `screen_cells`; or the folder holds another sweep,
                or another screening.
        """
        cells = self.cells(model)
        if self.screen == 1:
            return cells
        return screened_cells(model, pairs, cells, self.screen, folder)


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _selector(token: Any) -> PositionSelector:
    try:
        return parse_positions(token)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"each of tokens must be a position selector, got {token!r}: {error}"
        ) from error


def _check_once(name: str, given: Sequence[Any], meant: Sequence[Any]) -> None:
    """Raise where two of what is given mean the same, so that one cell would be there twice."""
    for i, one in enumerate(meant):
        if one in meant[:i]:
            raise ValueError(
                f"{name} must have each of its values once, got {given[i]!r} twice in {[*given]}"
            )


def _check_whole(name: str, given: Any, least: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {given!r}")
