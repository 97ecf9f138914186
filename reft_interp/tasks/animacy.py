"""Animacy: people are asked after with "who", things with "which"."""

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask

# None begins with a vowel, since templates say "a".
ANIMATE = (
    "nurse", "teacher", "farmer", "doctor", "woman", "man", "boy", "girl", "lawyer", "student",
    "widow", "soldier", "child", "singer", "king", "writer", "driver", "neighbour", "sailor",
    "baker", "painter", "tailor", "queen", "guest",
)  # fmt: skip
INANIMATE = (
    "table", "car", "book", "house", "river", "tree", "bridge", "chair", "letter", "stone",
    "train", "hammer", "lamp", "garden", "road", "bottle", "window", "boat", "knife", "hill",
    "coat", "basket", "shop", "church",
)  # fmt: skip
TEMPLATES = (
    "This is the {noun}",
    "Yesterday they talked about a {noun}",
    "In the story there is a {noun}",
    "We have never seen the {noun}",
    "Everyone was talking about the {noun}",
    "She wrote to me about a {noun}",
)


def animacy() -> CausalTask:
    """Whether a relative clause after a noun begins with " who" or " which".

    Variables: `animate`, of the `noun`, and the relative pronoun, which is the answer. Nouns and
    templates of test are not in train.
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
