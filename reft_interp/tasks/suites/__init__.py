"""The suites of Wu et al. 2024 (arXiv:2404.03592): data, prompts, scoring, and their settings.

One file a suite: `commonsense`, `arithmetic`, `mawps`, `instructions`, `glue`. Each makes a
`Suite`, from a folder or from the hub; `paper_recipe` says how the paper trains on it.
"""

from reft_interp.evaluation.metrics import Metric
from reft_interp.tasks.suites.arithmetic import ARITHMETIC, arithmetic
from reft_interp.tasks.suites.commonsense import COMMONSENSE, commonsense
from reft_interp.tasks.suites.glue import GLUE, glue
from reft_interp.tasks.suites.instructions import instructions, read_outputs, write_outputs
from reft_interp.tasks.suites.judging import Judge, NoVerdict, WinRate, rouge_l_proxy, win_rate
from reft_interp.tasks.suites.labelled import labelled_suite
from reft_interp.tasks.suites.mawps import mawps
from reft_interp.tasks.suites.openai_judge import openai_judge
from reft_interp.tasks.suites.paper_recipes import PAPER_RECIPES, paper_recipe
from reft_interp.tasks.suites.recipe import Decoding, Recipe
from reft_interp.tasks.suites.suite import Suite

__all__ = [
    "ARITHMETIC",
    "COMMONSENSE",
    "GLUE",
    "PAPER_RECIPES",
    "Decoding",
    "Judge",
    "Metric",
    "NoVerdict",
    "Recipe",
    "Suite",
    "WinRate",
    "arithmetic",
    "commonsense",
    "glue",
    "instructions",
    "labelled_suite",
    "mawps",
    "openai_judge",
    "paper_recipe",
    "read_outputs",
    "rouge_l_proxy",
    "win_rate",
    "write_outputs",
]
