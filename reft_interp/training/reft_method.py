"""ReFT as a method to compare with others: an intervention, on layers, on tokens."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any, Literal, SupportsIndex

import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import IGNORED
from reft_interp.interventions import Intervention
from reft_interp.models.devices import device_of
from reft_interp.positions import FirstLast, PositionSelector, parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import is_causal
from reft_interp.sites import Component, Site
from reft_interp.training.class_finetuning import begin_classifier, fit_classes
from reft_interp.training.finetuning import (
    AT_ONCE,
    Constants,
    Finetuned,
    FinetuningMethod,
    Fit,
    Preparation,
    TextRow,
    places,
)
from reft_interp.training.hyperparameters import check_warmup_and_decay
from reft_interp.training.in_place import train
from reft_interp.training.loss_curve import development_curve
from reft_interp.training.memory import peak_memory
from reft_interp.training.seeding import seeded
from reft_interp.whole_numbers import whole_number


class IntervenedFinetuned(Finetuned):
    """A model with trained interventions.

    Args:
        intervened: the model.
        constants: of the rows whose loss is asked for again and again.
    """

    def __init__(self, intervened: IntervenedModel, constants: Constants | None = None):
        self.intervened = intervened
        self._constants = constants or Constants()

    @property
    def trained_parameters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.intervened.trained_parameters

    def prepare(self, rows: Sequence[TextRow]) -> Preparation[PreparedRows]:
        return self._constants.of(self.intervened, rows, AT_ONCE)

    def summed_loss(self, rows, group):
        inputs = self.prepare(rows).rows.inputs(group, self.intervened.placements)
        self.intervened.eval()
        summed = self.intervened(**inputs, num_items_in_batch=1)["loss"]
        return float(summed), int((inputs["labels"] != IGNORED).sum())

    def continued(self, rows, **options):
        return self.intervened.generate(rows, **options)

    def save(self, folder):
        self.intervened.save(folder)


@dataclass(frozen=True, eq=False)
class ReFT(FinetuningMethod):
    """Interventions on the prompt's tokens, trained by cross-entropy of the answer.

    Wu et al. 2024 (arXiv:2404.03592), section 3. On an encoder they are trained together with a
    classifier's head, by cross-entropy of the classes (section 4.5).

    Args:
        intervention: a template, as `LoReFT(rank=4)`, or one with a width, as
            `LoReFT(start=subspace)`: each training begins with copies of it, one for each place.
        layers: of the model, from 0; "all", or those of these that it has.
        on: which tokens of the prompt, as "f7+l7".
        tied: one intervention a layer for the first tokens and the last ones, rather than one for
            each. Either way the same tokens are edited, none of them twice.
        component: of the model.
        candidates: learning rates to choose from, the best guess first.
        warmup_ratio: share of the steps in which the learning rate rises; the schedule's own by
            default.
        weight_decay: of AdamW; the schedule's own by default.
        name: in tables; the intervention's class by default.

    Raises:
        TypeError: a layer that is no whole number.
        ValueError: layers that are a text other than "all"; tokens that are no selection, or that
            `tied=False` cannot part into first and last ones; a warm-up or weight decay that no
            training can have.
    """

    intervention: Intervention
    layers: Literal["all"] | Sequence[int] = "all"
    on: str | PositionSelector = "f3+l3"
    tied: bool = field(default=True, kw_only=True)
    component: Component = field(default="resid_post", kw_only=True)
    candidates: tuple[float, ...] = field(default=(4e-3, 1e-2, 1e-3), kw_only=True)
    warmup_ratio: float | None = field(default=None, kw_only=True)
    weight_decay: float | None = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", _numbers(self.layers))
        elif self.layers != "all":
            raise ValueError(f'layers must be "all" or numbers from 0, got {self.layers!r}')
        if not self.name:
            object.__setattr__(self, "name", type(self.intervention).__name__)
        self._parts()
        check_warmup_and_decay(**self._own_schedule)

    def fit(self, model, rows, schedule, *, development=None, measured_after=(), constants=None):
        constants = constants or Constants()
        schedule = replace(schedule, **self._own_schedule)
        with seeded(schedule.seed):
            intervened = IntervenedModel(model, self.placements(model))
        if not is_causal(model):
            return fit_classes(
                model, rows, schedule, partial(begin_classifier, intervened, schedule),
                development=development, measured_after=measured_after, constants=constants,
            )  # fmt: skip
        # Without gradient, so many take no more memory than a step does.
        once = constants.of(intervened, rows, 2 * schedule.batch_size)
        finetuned = IntervenedFinetuned(intervened, constants)
        curve = development_curve(finetuned, development, measured_after)
        with peak_memory(device_of(model)) as peak:
            train(
                intervened,
                once.rows,
                batch_size=schedule.batch_size,
                progress=False,
                callbacks=[curve],
                **schedule.arguments,
            )
        memory = once.with_training(peak.bytes)
        return Fit(finetuned, curve.seconds, once.seconds, curve.points, memory)

    def edited_places(self, model):
        return places(self.placements(model))

    def placements(self, model: TransformerBridge) -> list[Placement]:
        """The untrained interventions in their places.

        Raises:
            ValueError: a layer that the model lacks.
        """
        depth = int(model.cfg.n_layers)
        layers = range(depth) if self.layers == "all" else self.layers
        # Copies: one that has a width would be the same module in all places and all trainings.
        return [
            Placement(copy.deepcopy(self.intervention), Site(self.component, layer), part)
            for layer in layers
            for part in self._parts()
        ]

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "intervention": [type(self.intervention).__name__, self.intervention.arguments()],
            "layers": self.layers if self.layers == "all" else list(self.layers),
            "on": str(parse_positions(self.on)),
            "tied": self.tied,
            "component": self.component,
            **self._own_schedule,
            **_start(self.intervention),
        }

    @property
    def _own_schedule(self) -> dict[str, float]:
        """What is said here of the schedule; nothing of it where that is left to the schedule."""
        own = {"warmup_ratio": self.warmup_ratio, "weight_decay": self.weight_decay}
        return {name: value for name, value in own.items() if value is not None}

    def _parts(self) -> list[PositionSelector]:
        on = parse_positions(self.on)
        if self.tied:
            return [on]
        if not isinstance(on, FirstLast) or not (on.first and on.last):
            raise ValueError(
                f'tied=False needs first and last tokens, as on="f3+l3", got {str(on)!r}'
            )
        return list(on.ends())


def _start(template: Intervention) -> dict[str, str]:
    """A hash of what every training begins with, also where that was drawn for a width alone;
    nothing where each seed draws its own."""
    if template.width is None:
        return {}
    found = sha256()
    for name, tensor in sorted(template.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        numbers = tensor.detach().reshape(-1).cpu().contiguous()
        found.update(numbers.view(torch.uint8).numpy().tobytes())
    return {"start": found.hexdigest()}


def _numbers(layers: SupportsIndex | Iterable[SupportsIndex]) -> tuple[int, ...]:
    several = layers if isinstance(layers, Iterable) else (layers,)
    return tuple(
        whole_number(one, f'layers must be "all" or whole numbers, got {one!r} among {layers!r}')
        for one in several
    )
