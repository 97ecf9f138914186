"""Answers of worked solutions: the number, or the letter of a choice, that a text ends with."""

import re

# Models that are not trained on the format, or are shown examples, go on with another problem.
_NEXT_PROBLEM = re.compile(
    r"###\s*(?:Instruction|Input|Response)\b:?|\bBelow is an instruction that\b"
    r"|^\s*(?:Question|Problem|Instruction|Q|Human|User)\s*\d*\s*:"
    r"|<\|(?:im_start|im_end|endoftext|eot_id|end)\|>",
    re.MULTILINE,
)

# A minus belongs to a number unless something to subtract from stands before it: "7-3", "(7)-3".
_NUMBER = re.compile(
    r"""
    (?P<minus>(?:(?<![\w.)])-)?)
    (?:[$£€](?P<inner_minus>-?))?
    (?:(?P<whole>(?<![.,\d])\d+)\ (?=\d+/\d))?
    (?P<digits>
        (?:(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\w)\.\d+)
        (?:e[-+]?\d+(?!\w))?
    )
    (?:\s?/\s?(?P<below>\d+)(?!\d|[.,]\d|/))?
    """,
    re.VERBOSE | re.IGNORECASE,
)

# LaTeX in plain signs, dashes that are a minus, how exact a number is, then powers of ten as
# `float` reads them.
_PLAIN = [
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"(?<=\d)(?=\\[dt]?frac)", " "),  # a mixed number
        (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
        (r"\\[dt]?frac\s*(\d)\s*(\d)", r"\1/\2"),
        (r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1"),
        (r"\{,\}", ","),
        (r"\\(?:times|cdot)\b", "×"),
        (r"\^\s*\{([^{}]*)\}", r"^\1"),
        (r"\\([$%])", r"\1"),
        (r"\\[,!;: ]", " "),
        (r"(?<![\w.)%])(?<![\d)%]\s)[–—](?=[$£€]?\.?\d)", "-"),
        (
            r"(?i)\b(?:rounded\s+(?:off\s+|up\s+|down\s+)?)?to\s+\d+\s+"
            r"(?:decimals?\b(?:\s+places?\b)?|significant\s+(?:figures?|digits?)\b)",
            "",
        ),
        (r"(\d)\s?[x×*]\s?10(?:\^|\*\*)\(?(-?\d+)\)?", r"\1e\2"),
        (r"(?<![\w.])10(?:\^|\*\*)\(?(-?\d+)\)?", r"1e\1"),
    )
]

# A blank separates thousands where it cannot be one between numbers: a narrow one or one that
# breaks no line, or where a group begins with 0, as no number does ("2 000", but "3 100" is two).
_SPACED = re.compile(r"(?<![\w.,])\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?![\w,])")

_POWER = re.compile(
    r"(?<![\w.,^)])(\d{1,9}(?:\.\d+)?)(?:\^|\*\*)(?:\((-?\d{1,2})\)|(-?\d{1,2}))(?![\w^]|\.\d)"
)
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")

# The letter of a choice has to be marked as one: "A" is also a word, and a name of variables.
# What says so is a sign after it, a reason ("B because 5 > 3"), or the number that it stands for
# ("D 12", but "a 5" is an article).
_STATED_LETTER = re.compile(
    r"""
    \b(answer|option|choice)(?:\s+(?:is|(?:should|would|must|will)\s+be)|\s*:)?
    (?:\s+not\s+\(?[A-E]\)?,?\s+but)?
    [\s:*$]*\(?\s*([A-E])
    (?:
        (?=\s*(?:[).,:;\n*$]|$))
        | (?=\s+[-–—=(])
        | (?=\s+(?:because|since|as|which|for|so|given|not
                 |is\s+(?:the\s+)?(?:correct|right|answer))\b)
        | (?<=(?-i:[B-E]))(?=\s+[-$£€]?\d)
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_STATED_NUMBER = re.compile(r"\banswer(?:\s+is|\s*:)[\s:*]*[-$£€]*\.?\d", re.IGNORECASE)
# "A: 45" is not among them: so an answer to "Q: ..." begins.
_FIRST_LETTER = re.compile(
    r"""
    [\s*]*
    (?:
        \(\s*([A-E])\s*\)
        | ([A-E])\s*(?:\)|[.*]*\s*$)
        | (?:([A-E])\.|([B-E]):)\**\s*[-$£€]*[\d.,/]+\s*%?[.*]*\s*$
    )
    """,
    re.VERBOSE,
)
_LAST_LETTER = re.compile(r"\(\s*([A-E])\s*\)[.*]*\s*$")


def own_solutions(text: str) -> list[str]:
    """The parts of a text, where it goes on with further problems and solves them too.

    >>> own_solutions("The answer is 5.\\nQuestion: what is 2 + 2?\\nAnswer: 4")
    ['The answer is 5.\\n', ' what is 2 + 2?\\nAnswer: 4']
    """
    return _NEXT_PROBLEM.split(text)


def last_number(text: str) -> str | None:
    """The last number of a text, as text that `float` reads; None where there is none.

    >>> [last_number(text) for text in ("$1,000.50", "so 7-3 = 4.", "3/4 of it", "is −3 °C")]
    ['1000.50', '4', '0.75', '-3']
    >>> [last_number(text) for text in ("2 1/2", "3 x 10^4", r"\\boxed{\\frac{1}{2}}, of 8")]
    ['2.5', '3e4', '0.5']

    >>> [last_number(text) for text in ("2 000 of 3", "1,00,000", "2^3", "12, to 2 decimal places")]
    ['3', '100000', '8', '12']

    Thousands have commas or blanks ("3 100" is two numbers: a blank counts where three digits after
    it begin with 0, or it is a narrow one), a currency and a unit are passed over, a fraction and a
    power are their value, a number of decimal places is none; of LaTeX what is boxed counts. Which
    number counts otherwise is LLM-Adapters' rule (evaluate.py); it reads "3/4" as 4, "7-3" as -3.
    """
    *_, found = [None, *_NUMBER.finditer(_plain(text))]
    if found is None:
        return None
    negative = bool(found["minus"]) != bool(found["inner_minus"])
    digits = found["digits"].replace(",", "")
    if found["below"] and float(found["below"]):
        part = float(digits) / float(found["below"])
        # "5 3/2" is no mixed number, but two numbers beside each other.
        digits = repr(part + float(found["whole"] or 0) if part < 1 else part)
    return f"-{digits}" if negative else digits


def _plain(text: str) -> str:
    """The text in plain signs, or what is in its last box."""
    text = text.replace("−", "-")
    for pattern, sign in _PLAIN:
        text = pattern.sub(sign, text)
    text = _SPACED.sub(_unspaced, text)
    text = _POWER.sub(_value_of_power, text)
    *_, boxed = [None, *_BOXED.findall(text)]
    return text if boxed is None else boxed


def _unspaced(number: re.Match[str]) -> str:
    _, *groups = re.split(r"\s", number[0])
    sure = any(group[0] == "0" for group in groups) or " " not in number[0]
    return re.sub(r"\s", "", number[0]) if sure else number[0]


def _value_of_power(power: re.Match[str]) -> str:
    base, exponent = float(power[1]), int(power[2] or power[3])
    if not base and exponent < 0:
        return power[0]
    return f"{base**exponent:.15g}"


def stated_letter(text: str) -> str | None:
    """The letter from A to E that a text gives as its answer; None where it gives none.

    >>> stated_letter("Both add up to 150. The answer is (D).")
    'D'

    That is the last one after "answer", "option" or "choice"; or one that begins the text as
    "(B)" or "B)", is all of it, or ends it as "(B)". LLM-Adapters takes the first capital from A
    to E of all, which is seldom a letter that stands for a choice.
    """
    text = _plain(text)
    *_, said = [None, *_STATED_LETTER.finditer(text)]
    # Problems have plans to choose from, too: "Option B: 5 + 7 = 12. The answer is 12."
    if said and said[1].lower() != "answer" and _STATED_NUMBER.search(text, said.end()):
        return None
    found = _FIRST_LETTER.match(text) or _LAST_LETTER.search(text)
    letter = said[2] if said else found and next(filter(None, found.groups()))
    return letter.upper() if letter else None
