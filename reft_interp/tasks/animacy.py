"""Animacy: people are asked after with "who", things with "which"."""

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask

ANIMATE = (
    "nurse", "teacher", "farmer", "doctor", "woman", "man", "boy", "girl", "lawyer", "student",
    "actor", "soldier", "child", "singer", "king", "writer",
)  # fmt: skip
INANIMATE = (
    "table", "car", "book", "house", "river", "tree", "bridge", "chair", "letter", "stone",
    "train", "hammer", "lamp", "garden", "road", "bottle",
)  # fmt: skip
TEMPLATES = (
    "This is the {noun}",
    "Yesterday they talked about a {noun}",
    "In the story there is a {noun}",
    "We have never seen the {noun}",
)


def animacy() -> CausalTask:
    """Whether a relative clause after a noun begins with " who" or " which".

    Variables: `animate`, of the `noun`, and the relative pronoun, which is the answer. Nouns and
    a template of test are not in train.
    """
    model = CausalModel(
        {
            "noun": (*ANIMATE, *INANIMATE),
            "animate": (False, True),
            "pronoun": ("who", "which"),
        },
        {
            "animate": lambda noun: noun in ANIMATE,
            "pronoun": lambda animate: "who" if animate else "which",
        },
    )
    return CausalTask(
        "animacy",
        model,
        "pronoun",
        TEMPLATES,
        held_out=("noun",),
        balanced=("animate",),
        description="Which relative pronoun follows a noun.",
    )
