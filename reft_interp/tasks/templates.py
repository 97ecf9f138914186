"""Templates of a causal task: which variables they name, and whether their text has one answer.

Next door: `causal_task`, which writes settings with them.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection
from string import Formatter
from typing import Any

from reft_interp.causal.model import CausalModel
from reft_interp.positions import read_otherwise


def named_variables(template: str, model: CausalModel) -> list[str]:
    """The variables that a template names, in order.

    Raises:
        TypeError: it is no text.
        ValueError: its braces hold no variable of the model, a format, one variable twice, or one
            that position selectors take for other tokens, or it ends in a space.
    """
    if not isinstance(template, str):
        raise TypeError(f"templates must be texts, got {template!r}")
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise ValueError(
            f"templates: {template!r} must have each variable in braces, as {{x}}: {error}"
        ) from None
    named = [str(name) for _, name, _, _ in fields]
    unknown = [name for name in named if name not in model.domains]
    if unknown or not named:
        raise ValueError(
            f"templates: {template!r} must name variables ({', '.join(model.domains)}), "
            f"it names {unknown or 'none'}"
        )
    formatted = [name for _, name, spec, conversion in fields if spec or conversion]
    if formatted:
        raise ValueError(
            f"templates: {template!r} formats {formatted[0]!r}; how a value is written is "
            "a matter of words"
        )
    if template[-1].isspace():
        raise ValueError(f"templates: {template!r} ends in a space; answers bring their own")
    twice = [name for name, n in Counter(named).items() if n > 1]
    if twice:
        raise ValueError(
            f"templates: {template!r} names {twice[0]!r} twice, and a span is one place; name a "
            f"variable of its own there, whose mechanism is `lambda {twice[0]}: {twice[0]}`"
        )
    for name in named:
        if (other := read_otherwise(name)) is not None:
            raise ValueError(
                f"templates: {template!r} names {name!r}, which as a position selector means "
                f"{str(other)!r} and not the place of the variable; give the variable another "
                f"name, as {'the_' + name.replace('+', '_')!r}"
            )
    return named


def check_answered(
    template: str,
    named: Collection[str],
    model: CausalModel,
    output: str,
    word: Callable[[str, Any], str],
) -> None:
    """Raise if a template gives the same text to settings of which the answers differ.

    Args:
        template: for the message.
        named: the variables that it names.
        model: of which the settings are.
        output: the variable that the answer tells.
        word: the text of a variable's value.

    Raises:
        ValueError: as above; the message has two answers, and the inputs that are not told.
    """
    untold = _untold(model, output, named)
    if not untold:
        return
    # What is not named may still follow from what is, as a place from the word that stands there.
    behind = model.ancestors([output])
    telling = [name for name in named if model.ancestors([name]) & behind & set(model.inputs)]
    counting = model.ancestors([output, *telling])
    inputs = [name for name in model.inputs if name in counting]
    rest = {name: model.domains[name][0] for name in model.inputs if name not in counting}
    rng = random.Random(0)
    answers: dict[tuple[str, ...], Any] = {}
    for values in model.tried_inputs(inputs):
        # Of many inputs not all are tried: so each beside one that differs where it is not told.
        other = values | {name: rng.choice(model.domains[name]) for name in untold}
        for one in (values, other):
            setting = model.run(rest | one)
            text = tuple(word(name, setting[name]) for name in telling)
            answer = setting[output]
            if answers.setdefault(text, answer) != answer:
                raise ValueError(
                    f"templates: {template!r} must tell what {output!r} follows from, but the same "
                    f"text is answered {answers[text]!r} or {answer!r}: it does not tell "
                    f"{' or '.join(untold)}"
                )


def _untold(model: CausalModel, output: str, named: Collection[str]) -> list[str]:
    """The inputs from which the output follows along a path on which no variable is named."""
    waiting, seen = [output], set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in named:
            seen.add(name)
            waiting += model.parents[name]
    return [name for name in model.inputs if name in seen]
