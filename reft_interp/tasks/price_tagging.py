"""Price tagging: does a price lie between two bounds? (Wu et al. 2023, arXiv:2305.08809.)

The task that boundless DAS is taught with, in small whole numbers. The price comes first, so that
a model can compare it with each bound as it reads it. Whether there is a place where a comparison
can be found differs between seeds of `train_small_model`, which can be taught both (`taught`).
"""

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask

PRICES = range(10)
# One input, so that each bracket is drawn as often as any other, and the price falls above it as
# often as below.
BRACKETS = tuple((lower, upper) for upper in PRICES for lower in range(upper))
_TEMPLATE = "costs {price} from {lower} to {upper} :"
_WORDS = {"answer": {True: " yes", False: " no"}}


def price_tagging() -> CausalTask:
    """The task: "costs 4 from 2 to 5 :" is answered " yes" if the price is in the bracket,
    bounds included.

    "above_lower" and "below_upper" say whether the price keeps either bound.
    """
    return _task(
        "price tagging",
        {"above_lower": [False, True], "below_upper": [False, True]},
        {
            "above_lower": lambda price, lower: price >= lower,
            "below_upper": lambda price, upper: price <= upper,
            "answer": lambda above_lower, below_upper: above_lower and below_upper,
        },
    )


def price_midpoint_hypothesis() -> CausalTask:
    """A wrong hypothesis about the same prompts and answers: that the middle of the bracket is kept
    ("middle", doubled to be whole), and the price's distance from it compared with half the width.
    """
    return _task(
        "price tagging, middle of the bracket",
        {"middle": range(2 * len(PRICES))},
        {
            "middle": lambda lower, upper: lower + upper,
            "answer": lambda middle, price, lower, upper: abs(2 * price - middle) <= upper - lower,
        },
    )


def _task(name: str, domains: dict, mechanisms: dict) -> CausalTask:
    model = CausalModel(
        {
            "bracket": BRACKETS,
            "price": PRICES,
            "lower": PRICES,
            "upper": PRICES,
            **domains,
            "answer": [False, True],
        },
        {
            "lower": lambda bracket: bracket[0],
            "upper": lambda bracket: bracket[1],
            **mechanisms,
        },
    )
    return CausalTask(name, model, "answer", [_TEMPLATE], words=_WORDS, balanced=("answer",))
