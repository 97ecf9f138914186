"""Prose as HTML: escaped first, then paragraphs, lists, `code`, *emphasis* and **strength**.

That is all of the markup there is, on purpose: prose comes from results and from users, so
nothing in it may become HTML by accident, and a report needs no more.
"""

import re

from markupsafe import Markup, escape

_CODE = re.compile(r"`([^`]+)`")
# The stars must touch their words, so that "2 * 3 * 4" stays a product.
_STRONG = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=[^\s*])(.+?)(?<=[^\s*])\*(?![\w*])")


def inline(text: str) -> Markup:
    """One run of text with code, emphasis and strength; line breaks count as spaces."""
    # Odd pieces stood between backticks: nothing in them is markup.
    pieces = _CODE.split(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if at % 2 else _emphasise(piece)
        for at, piece in enumerate(pieces)
    )


def prose(text: str) -> Markup:
    """Paragraphs, separated by empty lines; a block whose lines start with "- " is a list."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]
    return Markup("\n").join(_block(block) for block in blocks)


def as_list(lines: str) -> str:
    """Lines of text as a list in this markup, one entry a line."""
    return "\n".join(f"- {line}" for line in lines.splitlines())


def _block(block: str) -> Markup:
    if block.startswith("- "):
        entries = re.split(r"\n\s*- ", block[2:])
        return Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(inline(entry)) for entry in entries)
        )
    return Markup("<p>{}</p>").format(inline(block))


def _emphasise(text: str) -> Markup:
    # `escape` leaves stars alone, and no star is part of what it writes.
    strong = _STRONG.sub(r"<strong>\1</strong>", str(escape(text)))
    return Markup(_EMPHASIS.sub(r"<em>\1</em>", strong))
