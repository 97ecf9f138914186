"""Labels that a text gives, and not those that it denies: "not true but false" is false."""

import re

# "not positive", "isn't very positive", "neither yes nor no", "not yes or no".
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|neither|nor)|n['’]t)\s+"
    r"(?:(?:the|a|necessarily|really|very|quite)\s+)?(?:\S+\s+or\s+)?$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(r"\W{0,3}\s(?:is|was)(?:\s+not\b|n['’]t\b)", re.IGNORECASE)


def first_affirmed(pattern: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """The first match that the text does not deny; None where there is none.

    >>> first_affirmed(re.compile("true|false"), "not true but false")[0]
    'false'

    Args:
        pattern: of a label.
        text: where it is looked for.
        start: from which character on.
    """
    for found in pattern.finditer(text, start):
        denied = _DENIED_BEFORE.search(text[: found.start()]) or _DENIED_AFTER.match(
            text, found.end()
        )
        if not denied:
            return found
    return None
