"""Two-digit addition: the tens of a sum, for which the ones may carry."""

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask

DIGITS = range(10)


def two_digit_addition() -> CausalTask:
    """The task: "3 7 + 2 5 =" is answered " 6", the tens of 62 (of 137, " 3").

    "carry" says whether the ones are ten or more.
    """
    model = CausalModel(
        {
            **{name: DIGITS for name in ("a_tens", "a_ones", "b_tens", "b_ones")},
            "carry": [False, True],
            "tens": DIGITS,
        },
        {
            "carry": lambda a_ones, b_ones: a_ones + b_ones > 9,
            "tens": lambda a_tens, b_tens, carry: (a_tens + b_tens + carry) % 10,
        },
    )
    return CausalTask(
        "two-digit addition",
        model,
        "tens",
        ["{a_tens} {a_ones} + {b_tens} {b_ones} ="],
        balanced=("carry",),
    )
