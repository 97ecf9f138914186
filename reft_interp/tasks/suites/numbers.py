"""Answers of worked solutions: the number, or the letter of a choice, that a text ends with."""

import re

# A minus belongs to a number unless something to subtract from stands before it: "7-3", "(7)-3".
_NUMBER = re.compile(
    r"""
    (?P<minus>(?:(?<![\w.)])[-−])?)
    (?:[$£€](?P<inner_minus>[-−]?))?
    (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\w)\.\d+)
    (?:\s?/\s?(?P<below>\d+)(?!\d|[.,]\d|/))?
    """,
    re.VERBOSE,
)

# The letter of a choice has to be marked as one: "A" is also a word, and a name of variables.
_STATED_LETTER = re.compile(
    r"\b(?:answer|option|choice)(?:\s+is|\s*:)?[\s:]*\(?\s*([A-E])\s*(?=[).,:;\n]|$)",
    re.IGNORECASE,
)
_FIRST_LETTER = re.compile(r"\s*(?:\(\s*([A-E])\s*\)|([A-E])\s*(?:\)|\.?\s*$))")
_LAST_LETTER = re.compile(r"\(\s*([A-E])\s*\)\.?\s*$")


def last_number(text: str) -> str | None:
    """The last number of a text, as digits that `float` reads; None where there is none.

    >>> [last_number(text) for text in ("$1,000.50", "so 7-3 = 4.", "3/4 of it", "is −3 °C")]
    ['1000.50', '4', '0.75', '-3']

    Thousands have commas, a currency and a unit are passed over, a fraction is its value. Which
    number counts is LLM-Adapters' rule (evaluate.py); it reads "3/4" as 4 and "7-3" as -3.
    """
    *_, found = [None, *_NUMBER.finditer(text)]
    if found is None:
        return None
    negative = bool(found["minus"]) != bool(found["inner_minus"])
    digits = found["digits"].replace(",", "")
    if found["below"] and float(found["below"]):
        digits = repr(float(digits) / float(found["below"]))
    return f"-{digits}" if negative else digits


def stated_letter(text: str) -> str | None:
    """The letter from A to E that a text gives as its answer; None where it gives none.

    >>> stated_letter("Both add up to 150. The answer is (D).")
    'D'

    That is the last one after "answer", "option" or "choice"; or one that begins the text as
    "(B)" or "B)", is all of it, or ends it as "(B)". LLM-Adapters takes the first capital from A
    to E of all, which is seldom a letter that stands for a choice.
    """
    *_, said = [None, *_STATED_LETTER.findall(text)]
    found = _FIRST_LETTER.match(text) or _LAST_LETTER.search(text)
    letter = said or (found and next(filter(None, found.groups())))
    return letter.upper() if letter else None
