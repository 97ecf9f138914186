"""A callback that notes which steps a training began."""

from transformers import TrainerCallback


class BegunSteps(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)
