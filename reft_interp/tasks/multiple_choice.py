"""Multiple choice: which symbol stands before the option that is right?

The colour-copying task of MIB (Mueller et al. 2025, arXiv:2504.13151) in short prompts, for a model
of `train_small_model`. SmolLM2-135M can't do it: of 200 prompts in MIB's own format it gets 0.53
right with two options and 0.25 with four, which is chance, and 0.33 of these short ones.
"""

from itertools import permutations

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask

COLOURS = ("red", "green", "blue", "yellow", "brown", "black")
SYMBOLS = ("A", "B", "C", "D", "E", "F")


def multiple_choice(options: int = 2) -> CausalTask:
    """The task: "red is it D green or B red ?" is answered " B".

    "pointer" is the place of the right option, from 0, from which and from the symbols follows the
    answer. Swapping it has the base answered with another of its own symbols; swapping the answer,
    with the source's symbol.

    Args:
        options: how many; their colours and symbols differ.

    Raises:
        ValueError: fewer than two options, or more than there are colours.
    """
    if not 2 <= options <= len(COLOURS):
        raise ValueError(f"options must be between 2 and {len(COLOURS)}, got {options}")
    places = range(options)
    model = CausalModel(
        {
            "colours": tuple(permutations(COLOURS, options)),
            "symbols": tuple(permutations(SYMBOLS, options)),
            "place": places,
            "colour": COLOURS,
            **{f"colour_{i}": COLOURS for i in places},
            **{f"symbol_{i}": SYMBOLS for i in places},
            "pointer": places,
            "answer": SYMBOLS,
        },
        {
            "colour": lambda colours, place: colours[place],
            **{f"colour_{i}": lambda colours, i=i: colours[i] for i in places},
            **{f"symbol_{i}": lambda symbols, i=i: symbols[i] for i in places},
            "pointer": lambda colour, colours: colours.index(colour),
            "answer": lambda pointer, symbols: symbols[pointer],
        },
    )
    listed = " or ".join(f"{{symbol_{i}}} {{colour_{i}}}" for i in places)
    return CausalTask(
        "multiple choice" if options == 2 else f"multiple choice of {options}",
        model,
        "answer",
        [f"{{colour}} is it {listed} ?"],
        balanced=("pointer",),
    )
