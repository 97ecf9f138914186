"""The loss on held-out rows while a training runs, and how long it has run until then."""

import time
from collections.abc import Callable, Collection, Sequence

from transformers import TrainerCallback

from reft_interp.training.finetuning import Finetuned, TextRow


class LossCurve(TrainerCallback):
    """Measures a loss after some of the steps; the clock stands while it is measured.

    Args:
        loss: is asked for it.
        after: which steps, from 1.
    """

    def __init__(self, loss: Callable[[], float], after: Collection[int] = ()):
        self._loss, self._after = loss, set(after)
        self._began = self._paused = 0.0
        self.seconds = 0.0
        """Of the whole training."""
        self.points: list[tuple[int, float, float]] = []
        """Steps done, seconds until then, loss."""

    def on_train_begin(self, args, state, control, **kwargs):
        self._began = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step not in self._after:
            return
        stopped = time.perf_counter()
        loss = self._loss()
        if model is not None:
            model.train()
        self.points.append((state.global_step, stopped - self._began - self._paused, loss))
        self._paused += time.perf_counter() - stopped

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self._began - self._paused


def development_curve(
    finetuned: Finetuned, development: Sequence[TextRow] | None, after: Collection[int]
) -> LossCurve:
    """The loss on development rows while a method trains.

    What is constant about them is computed here, so that it is no part of what is measured of the
    training, whether or not another one has computed it before.

    Args:
        finetuned: what is trained.
        development: the rows; without any, nothing is measured but the time.
        after: which steps, from 1.
    """
    rows = development or ()
    if not rows or not after:
        return LossCurve(lambda: finetuned.loss(rows))
    finetuned.prepare(rows)
    return LossCurve(lambda: finetuned.loss(rows), after)
