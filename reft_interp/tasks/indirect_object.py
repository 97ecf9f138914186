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
    "When {name_1} and {name_2} went to the {place}, {subject} gave a {object} to",
    "After {name_1} and {name_2} arrived at the {place}, {subject} handed a {object} to",
    "Then {name_1} and {name_2} had a long talk at the {place}. {subject} gave a {object} to",
    "While {name_1} and {name_2} were waiting at the {place}, {subject} passed a {object} to",
    "Yesterday {name_1} and {name_2} met at the {place}, and {subject} offered a {object} to",
    "Once {name_1} and {name_2} had left the {place}, {subject} sent a {object} to",
)


def indirect_object() -> CausalTask:
    """Who is given something: the one of two who does not give.

    Variables: `subject_position` (does the first or the second of the names give?), from which
    and from the two names follows `indirect_object`, the answer. Swapping `subject_position` has
    the base answered with the other of its own names; swapping `indirect_object`, with the
    source's name. Test has names, objects and places that train has not.
    """
    names: list[str] = list(NAMES)

    def name_2(name_1: str, distance: int) -> str:
        return names[(names.index(name_1) + distance) % len(names)]

    def subject(name_1: str, name_2: str, subject_position: int) -> str:
        return (name_1, name_2)[subject_position]

    def indirect(name_1: str, name_2: str, subject_position: int) -> str:
        return (name_2, name_1)[subject_position]

    model = CausalModel(
        {
            "name_1": names,
            # Between the two names in the list: they are never the same.
            "distance": range(1, len(names)),
            "subject_position": (0, 1),
            "place": PLACES,
            "object": OBJECTS,
            "name_2": names,
            "subject": names,
            "indirect_object": names,
        },
        {"name_2": name_2, "subject": subject, "indirect_object": indirect},
    )
    return CausalTask(
        "indirect object identification",
        model,
        "indirect_object",
        TEMPLATES,
        held_out=(("name_1", "name_2"), "place", "object"),
        balanced=("subject_position",),
        description="Who is given something: of two names the one that is not said again.",
    )
