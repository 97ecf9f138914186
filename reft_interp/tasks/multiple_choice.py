"""Multiple choice: which symbol stands before the option that is right?

The colour-copying task of MIB (Mueller et al. 2025, arXiv:2504.13151) in short prompts, for a model
of `train_small_model`. SmolLM2-135M can't do it: of 200 prompts in MIB's own format it gets 0.53
right with two options and 0.25 with four, which is chance, and 0.33 of these short ones.
"""

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask

COLOURS = ("red", "green", "blue", "yellow", "brown", "black")
SYMBOLS = ("A", "B", "C", "D", "E", "F")


def multiple_choice() -> CausalTask:
    """The task: "red is it D green or B red ?" is answered " B".

    "pointer" is the place of the right option (0 or 1), from which and from the symbols follows the
    answer. Swapping it has the base answered with the other of its own symbols; swapping the
    answer, with the source's symbol.
    """

    def next_to(words: tuple[str, ...], word: str, distance: int) -> str:
        return words[(words.index(word) + distance) % len(words)]

    model = CausalModel(
        {
            "colour": COLOURS,
            # From the right colour to the wrong one, and from one symbol to the other.
            "colour_distance": range(1, len(COLOURS)),
            "place": (0, 1),
            "first_symbol": SYMBOLS,
            "symbol_distance": range(1, len(SYMBOLS)),
            "wrong_colour": COLOURS,
            "first_colour": COLOURS,
            "second_colour": COLOURS,
            "second_symbol": SYMBOLS,
            "pointer": (0, 1),
            "answer": SYMBOLS,
        },
        {
            "wrong_colour": lambda colour, colour_distance: next_to(
                COLOURS, colour, colour_distance
            ),
            "first_colour": lambda colour, wrong_colour, place: (colour, wrong_colour)[place],
            "second_colour": lambda colour, wrong_colour, place: (wrong_colour, colour)[place],
            "second_symbol": lambda first_symbol, symbol_distance: next_to(
                SYMBOLS, first_symbol, symbol_distance
            ),
            "pointer": lambda colour, first_colour: 0 if colour == first_colour else 1,
            "answer": lambda pointer, first_symbol, second_symbol: (
                first_symbol,
                second_symbol,
            )[pointer],
        },
    )
    return CausalTask(
        "multiple choice",
        model,
        "answer",
        [
            "{colour} is it {first_symbol} {first_colour} or {second_symbol} {second_colour} ?",
        ],
        balanced=("pointer",),
    )
