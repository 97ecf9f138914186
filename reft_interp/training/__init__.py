"""Train interventions in a frozen model, on transformers' Trainer.

`collating` makes batches, `trainer` is the Trainer, `in_place` the call that runs it, `reft` the
one call that most users need, `cells` trains many interventions together, `reft_cells` many ReFTs
in one call, `fit_classifier` a classification head with interventions below it, `class_finetuning`
the same for so many steps. `processes` shares a training among several; `checkpoints` and
`failures` are for what goes wrong.
Interchanges that are trained on counterfactuals are in `causal`, on the same Trainer.
"""

from reft_interp.training.cell import Cell
from reft_interp.training.cells import train_cells
from reft_interp.training.class_finetuning import HeadAlone
from reft_interp.training.classifier import Classifier
from reft_interp.training.classifier_result import ClassifierResult
from reft_interp.training.failures import TrainingStopped
from reft_interp.training.fit_classifier import fit_classifier
from reft_interp.training.in_place import train
from reft_interp.training.linear_head import LinearHead
from reft_interp.training.prompting import FewShot, MostFrequentAnswer
from reft_interp.training.reft import ReFTResult, fit_reft
from reft_interp.training.reft_cells import ReFTCell, fit_reft_each
from reft_interp.training.reft_method import ReFT
from reft_interp.training.trainer import InterventionTrainer

__all__ = [
    "Cell",
    "Classifier",
    "ClassifierResult",
    "FewShot",
    "HeadAlone",
    "InterventionTrainer",
    "LinearHead",
    "MostFrequentAnswer",
    "ReFT",
    "ReFTCell",
    "ReFTResult",
    "TrainingStopped",
    "fit_classifier",
    "fit_reft",
    "fit_reft_each",
    "train",
    "train_cells",
]
