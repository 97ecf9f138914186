"""Greater-than: is one two-digit number greater than another?

Hanna et al. 2023 (arXiv:2305.00586) ask a language model for the end of a war that began in a
given year, where any later year is right, so that they measure probabilities of all of them. Here
there is one right answer, which interchange intervention accuracy needs.
"""

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask

DIGITS = range(10)
_WORDS = {"greater": {True: " yes", False: " no"}}


def greater_than() -> CausalTask:
    """The task: "3 7 > 3 2 =" is answered " yes".

    "tens" compares the first digits (1 greater, 0 equal, -1 less), "ones" says whether the second
    digit of the first number is greater; "ones" counts where the tens are equal.
    """
    model = CausalModel(
        {
            **{name: DIGITS for name in ("a_tens", "a_ones", "b_tens", "b_ones")},
            "tens": [-1, 0, 1],
            "ones": [False, True],
            "greater": [False, True],
        },
        {
            "tens": lambda a_tens, b_tens: (a_tens > b_tens) - (a_tens < b_tens),
            "ones": lambda a_ones, b_ones: a_ones > b_ones,
            "greater": lambda tens, ones: tens > 0 or (tens == 0 and ones),
        },
    )
    return CausalTask(
        "greater-than",
        model,
        "greater",
        ["{a_tens} {a_ones} > {b_tens} {b_ones} ="],
        words=_WORDS,
        balanced=("tens", "ones"),
    )
