"""Gender of pronouns: "Mary went home because" goes on with " she"."""

from reft_interp.causal import CausalModel
from reft_interp.tasks.causal_task import CausalTask

FEMININE = (
    "Mary", "Linda", "Susan", "Sarah", "Karen", "Lisa", "Nancy", "Emily", "Laura", "Anna",
    "Emma", "Alice", "Julia", "Helen", "Diana", "Jane",
)  # fmt: skip
MASCULINE = (
    "James", "Robert", "John", "Michael", "David", "William", "Richard", "Thomas", "Charles",
    "Paul", "Mark", "George", "Peter", "Henry", "Frank", "Simon",
)  # fmt: skip
ACTIONS = (
    "went home", "was tired", "called the doctor", "left early", "stayed in bed", "laughed",
    "slept well", "sold the car", "cried",
)  # fmt: skip
TEMPLATES = ("{name} {action} because", "Everyone knows that {name} {action} because")


def pronoun_gender() -> CausalTask:
    """Which pronoun takes up a name.

    Variables: `gender`, of the `name`, and the pronoun, which is the answer. Names and actions of
    test are not in train.
    """
    model = CausalModel(
        {
            "name": (*FEMININE, *MASCULINE),
            "action": ACTIONS,
            "gender": ("feminine", "masculine"),
            "pronoun": ("she", "he"),
        },
        {
            "gender": lambda name: "feminine" if name in FEMININE else "masculine",
            "pronoun": lambda gender: "she" if gender == "feminine" else "he",
        },
    )
    return CausalTask(
        "pronoun gender",
        model,
        "pronoun",
        TEMPLATES,
        held_out=("name", "action"),
        balanced=("gender",),
        description="Which pronoun takes up a name.",
    )
