"""What happens beside the steps of a training: annealing, and the progress bar."""

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from reft_interp.runtime import IntervenedModel


class Anneal(TrainerCallback):
    """Tells interventions how far their training is, before each step."""

    def __init__(self, intervened: IntervenedModel):
        self._intervened = intervened

    def on_step_begin(self, args, state, control, **kwargs):
        self._intervened.anneal(state.global_step / state.max_steps)


class Bar(ProgressCallback):
    """The Trainer's progress bar, without a dictionary printed above it at each logging."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            if "loss" in logs:
                self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")
