"""Indirect object identification: "When Mary and John went to the store, John gave a drink to".

Wang et al. 2022 (arXiv:2211.00593). The answer is the name that stands once. Two causal models give
it: by the position of the repeated name (first or second), or by the name itself.
"""

from reft_interp.causal import CausalModel
from reft_interp.tasks.causal_task import CausalTask

# Each is one token with its leading space in most English tokenizers.
NAMES = (
    "Mary", "John", "Tom", "James", "Dan", "Anna", "Mark", "Paul", "David", "Sarah", "Laura",
    "Kevin", "Peter", "Simon", "Robert", "Alice", "Emma", "Julia", "Susan", "Lisa", "Adam",
    "Frank", "George", "Henry",
)  # fmt: skip

PLACES = ("store", "park", "school", "office", "garden", "station", "library", "beach")
OBJECTS = ("drink", "book", "ring", "letter", "ball", "key", "card", "flower")

TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave a {object} to",
    "After {first} and {second} arrived at the {place}, {subject} handed a {object} to",
    "Then {first} and {second} had a long talk at the {place}. {subject} gave a {object} to",
    "While {first} and {second} were waiting at the {place}, {subject} passed a {object} to",
    "Yesterday {first} and {second} met at the {place}, and {subject} offered a {object} to",
    "Once {first} and {second} had left the {place}, {subject} sent a {object} to",
)


def indirect_object() -> CausalTask:
    """Who is given something: the one of two who does not give.

    Variables: `subject_position` (does the first or the second of the names give?), from which
    and from the two names follows `indirect_object`, the answer. Swapping `subject_position` has
    the base answered with the other of its own names; swapping `indirect_object`, with the
    source's name. Objects and places are held out of test.
    """
    names: list[str] = list(NAMES)

    def second(first: str, distance: int) -> str:
        return names[(names.index(first) + distance) % len(names)]

    def subject(first: str, second: str, subject_position: int) -> str:
        return (first, second)[subject_position]

    def indirect(first: str, second: str, subject_position: int) -> str:
        return (second, first)[subject_position]

    model = CausalModel(
        {
            "first": names,
            # Between the two names in the list: they are never the same.
            "distance": range(1, len(names)),
            "subject_position": (0, 1),
            "place": PLACES,
            "object": OBJECTS,
            "second": names,
            "subject": names,
            "indirect_object": names,
        },
        {"second": second, "subject": subject, "indirect_object": indirect},
    )
    return CausalTask(
        "indirect object identification",
        model,
        "indirect_object",
        TEMPLATES,
        held_out=("place", "object"),
        balanced=("subject_position",),
        description="Who is given something: of two names the one that is not said again.",
    )
