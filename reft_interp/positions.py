"""The position selectors: which tokens of a batch are edited, and how that is written as text.

Below: `selector` says what a selector is and aligns two runs. Next door: `showing` prints
prompts with the tokens marked. Spans and substrings are found by character offsets, never by
tokenizing a piece again: a piece alone need not give the tokens that it gives in its prompt.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, SupportsIndex, get_args

from reft_interp.selector import Part, PositionSelector, Row
from reft_interp.selector import Positions as Positions
from reft_interp.selector import check_alignment as check_alignment
from reft_interp.whole_numbers import whole_number

Rounding = Literal["paper", "pyreft", "pyreft-but-last", "paired"]


@dataclass(frozen=True)
class FirstLast(PositionSelector):
    """The first tokens and the last ones; see `first_last`.

    Raises:
        ValueError: both are 0, one is below 0, or an unknown rounding.
    """

    first: int = 0
    last: int = 0
    rounding: Rounding = field(default="paper", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 0 or self.last < 0 or self.first + self.last == 0:
            raise ValueError(
                f"first and last must be 0 or more, and not both 0, got {self.first}, {self.last}"
            )
        if self.rounding not in get_args(Rounding):
            raise ValueError(
                'rounding must be "paper", "pyreft", "pyreft-but-last" or "paired", got '
                f"{self.rounding!r}"
            )

    def pick(self, row: Row) -> Iterable[int]:
        _check_no_such_span(self, row)
        n = len(row) - (self.rounding == "pyreft-but-last")
        most_first, most_last = n, n
        if self.rounding in ("pyreft", "pyreft-but-last"):
            most_first, most_last = n // 2, n // 2
        elif self.rounding == "paired" or (self.first and self.last):
            most_first, most_last = n // 2, n - n // 2
        return [*range(min(self.first, most_first)), *range(n - min(self.last, most_last), n)]

    def ends(self) -> "tuple[FirstLast, FirstLast]":
        """The first tokens and the last ones by themselves: together what this selects.

        Raises:
            ValueError: there are no first tokens, or no last ones.
        """
        if not (self.first and self.last):
            raise ValueError(f"{str(self)!r} has one end only, and ends takes both, as f3+l3 has")
        rounding: Rounding = "paired" if self.rounding == "paper" else self.rounding
        return (
            replace(self, last=0, rounding=rounding),
            replace(self, first=0, rounding=rounding),
        )

    def _may_miss(self, row: Row) -> bool:
        # The only token of a row belongs to the last ones, which a selector of its own edits.
        return self.rounding == "paired" and len(row) == 1

    def _head(self) -> str:
        if self.first + self.last == 1:
            return "first" if self.first else "last"
        sides = (("f", self.first), ("l", self.last))
        return "+".join(f"{side}{count}" for side, count in sides if count)


@dataclass(frozen=True)
class Every(PositionSelector):
    """Every token."""

    def pick(self, row: Row) -> Iterable[int]:
        _check_no_such_span(self, row)
        return range(len(row))

    def _head(self) -> str:
        return "every"


@dataclass(frozen=True)
class Indices(PositionSelector):
    """Tokens by number; negative numbers count from the end.

    Raises:
        ValueError: no number.
    """

    at: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.at:
            raise ValueError("indices must hold at least one index, got none")

    def pick(self, row: Row) -> Iterable[int]:
        """See `PositionSelector.pick`.

        Raises:
            ValueError: a number is out of range in the row.
        """
        n = len(row)
        for i in self.at:
            if not -n <= i < n:
                raise ValueError(f"{self}: index {i} is out of range in {row}")
        return [i % n for i in self.at]

    @property
    def counts_from_start(self) -> bool:
        return any(i > 0 for i in self.at)

    def _head(self) -> str:
        return "indices:" + ",".join(map(str, self.at))


@dataclass(frozen=True)
class Span(PositionSelector):
    """A named span of the prompt; see `span`.

    Raises:
        ValueError: no name, or spans of the answer, which has none.
    """

    name: str
    all: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            raise ValueError("name must be the name of a span, got an empty string")
        if self.of == "answer":
            raise ValueError('named spans lie in the prompt; use substring(..., of="answer")')

    def pick(self, row: Row) -> Iterable[int]:
        """See `PositionSelector.pick`.

        Raises:
            ValueError: the row has no span of that name; the message says which it has.
        """
        if self.name not in row.spans:
            known = ", ".join(sorted(row.spans)) or "none"
            words = ["first", "last", "every", *row.spans]
            meant = get_close_matches(self.name, words, 1, cutoff=0.75)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise ValueError(f"no span {self.name!r} (there are: {known}) in {row}{hint}")
        return row.overlapping(*row.spans[self.name], all=self.all)

    def _head(self) -> str:
        if _is_read_as_a_span(self.name):
            return self.name
        bare = re.fullmatch(r"[\w.-]+", self.name)
        return f"span:{self.name if bare else json.dumps(self.name, ensure_ascii=False)}"


@dataclass(frozen=True)
class Substring(PositionSelector):
    """A piece of text; see `substring`.

    Raises:
        ValueError: no text.
    """

    text: str
    all: bool = field(default=False, kw_only=True)
    occurrence: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.text:
            raise ValueError("text must be what to look for, got an empty string")

    def pick(self, row: Row) -> Iterable[int]:
        """See `PositionSelector.pick`.

        Raises:
            ValueError: the text does not occur in the row, or not often enough.
        """
        starts = [match.start() for match in re.finditer(re.escape(self.text), row.text)]
        if not -len(starts) <= self.occurrence < len(starts):
            found = "1 occurrence" if len(starts) == 1 else f"{len(starts)} occurrences"
            raise ValueError(f"{self}: {found} of {self.text!r} in {row}")
        start = starts[self.occurrence]
        return row.overlapping(start, start + len(self.text), all=self.all)

    def _head(self) -> str:
        return f"substring:{json.dumps(self.text, ensure_ascii=False)}"


def first(n: int = 1, *, of: Part = "prompt") -> FirstLast:
    """The first `n` tokens, or as many as there are. BOS or [CLS] is the first."""
    return FirstLast(first=n, of=of)


def last(n: int = 1, *, of: Part = "prompt") -> FirstLast:
    """The last `n` tokens, or as many as there are."""
    return FirstLast(last=n, of=of)


def first_last(
    first: int, last: int, *, rounding: Rounding = "paper", of: Part = "prompt"
) -> FirstLast:
    """The first tokens and the last ones, none twice: `"f7+l7"`.

    Of n tokens the first min(first, ⌊n/2⌋) and the last min(last, ⌈n/2⌉), as in
    Wu et al. 2024 (arXiv:2404.03592). With one of the two 0, up to n of the other.

    Args:
        first: how many at the start.
        last: how many at the end.
        rounding: "pyreft" takes ⌊n/2⌋ at most of either, alone or not, as pyreft's code does:
            what was trained there runs on the same tokens here. "pyreft-but-last" does so with
            all tokens but the last, as pyreft's ReftSupervisedDataset, ReftGenerationDataset and
            ReftClassificationDataset do. "paired" is for one end whose
            other end is edited by another intervention: as if both stood here, so none of a
            single token for the first ones.
        of: the prompt's tokens, or the answer's.
    """
    return FirstLast(first, last, rounding=rounding, of=of)


def every(*, of: Part = "prompt") -> Every:
    """Every token, special ones included."""
    return Every(of=of)


def indices(*at: SupportsIndex, of: Part = "prompt") -> Indices:
    """Tokens by number, from 0; negative numbers count from the end of the prompt or answer.

    They are edited from left to right, in whatever order they are given.
    """
    return Indices(tuple(map(_index, at)), of=of)


def span(name: str, *, all: bool = False) -> Span:
    """The last token of a named span of the prompt, or all of its tokens.

    A token belongs to a span if it stands for any of its characters, so a token with its leading
    space, or one that reaches past the span, belongs to it too.
    """
    return Span(name, all=all)


def substring(
    text: str, *, all: bool = False, occurrence: int = 0, of: Part = "prompt"
) -> Substring:
    """The last token of a piece of text, or all of its tokens.

    Args:
        text: looked for exactly, case and spaces included.
        all: all tokens instead of the last.
        occurrence: which one, from 0, where the text occurs several times; -1 is the last.
        of: look in the prompt, or in the answer.
    """
    return Substring(text, all=all, occurrence=occurrence, of=of)


def parse_positions(on: str | SupportsIndex | Sequence[int] | PositionSelector) -> PositionSelector:
    """The selector that is meant by a piece of text, an index or a list of indices.

    >>> parse_positions("f7+l7") == first_last(7, 7)
    True
    >>> parse_positions("subject") == parse_positions("span:subject") == span("subject")
    True
    >>> str(substring(" Paris", all=True, of="answer"))
    'substring:" Paris" of=answer all'

    Args:
        on: "f7+l7", "f3", "l1", "first", "last", "every" (or "all"), "indices:0,-1" (or "0,-1"),
            "span:NAME" (or any other single word: the name of a span), 'substring:"TEXT"'; each
            with the selector's options behind it: `of=answer`, `all`, `occurrence=-1`,
            `rounding=pyreft`, `edit=NAME` (only in rows that ask for the edit of that name). An
            index, a list of them, or a selector will do as well. A span that is called as one of
            these words is written "span:last"; "last" selects nothing in a row that has it.

    Raises:
        ValueError: the text cannot be read.
        TypeError: `on` is none of these.
    """
    if isinstance(on, PositionSelector):
        return on
    if isinstance(on, str):
        try:
            return _read(on)
        except ValueError as error:
            raise ValueError(f"positions {on!r}: {error}") from None
    if isinstance(on, Sequence):
        return indices(*on)
    return indices(on)


@cache
def read_otherwise(name: str) -> PositionSelector | None:
    """What a name is read as where that is not the span of this name, as "last" or "f3" are not."""
    try:
        selector = parse_positions(name)
    except ValueError:  # so it is at least not taken for other tokens
        return None
    return None if isinstance(selector, Span) else selector


@cache
def _is_read_as_a_span(name: str) -> bool:
    """Whether a name by itself means the span of this name."""
    try:
        return parse_positions(name) == Span(name)
    except ValueError:
        return False


def _check_no_such_span(selector: FirstLast | Every, row: Row) -> None:
    """Raise if a row has a span that the selector, as text, may have been meant to name."""
    if selector.of == "answer":
        return
    for name in row.spans:
        other = read_otherwise(name)
        if other is not None and other._head() == selector._head():
            raise ValueError(
                f"{selector}: {name!r} means these tokens, but is a span's name, too, in {row}; "
                f"write ri.span({name!r}) for the span, or give it another name"
            )


def _index(value: SupportsIndex) -> int:
    return whole_number(
        value, f"positions must be text, whole numbers or a selector, got {value!r}"
    )


_TEXT = re.compile(
    r"""(?:(?P<kind>span|substring|indices):)?       # what it is, unless the form says so
        (?P<value>"(?:[^"\\]|\\.)*"|[^\s":=]+)       # JSON's quotes, or no quotes and no blanks
        (?P<options>(?:\s+[^\s"]+)*)""",
    re.VERBOSE,
)


def _read(text: str) -> PositionSelector:
    match = _TEXT.fullmatch(text.strip())
    if match is None or (match["kind"] is None and match["value"].startswith('"')):
        raise ValueError(
            'cannot be read; write "f7+l7", "f3", "l1", "first", "last", "every", "indices:0,-1", '
            '"span:NAME" or \'substring:"TEXT"\', with options behind a blank'
        )
    kind, value, options = match["kind"], match["value"], match["options"].split()
    word = json.loads(value, strict=False) if value.startswith('"') else value
    if kind is None:
        if ends := re.fullmatch(r"f(\d+)(?:\+l(\d+))?|l(\d+)", word):
            f, l_after_f, l_alone = (int(number or 0) for number in ends.groups())
            return FirstLast(f, l_after_f + l_alone, **_options(FirstLast, options))
        if word in ("first", "last"):
            return FirstLast(**{word: 1}, **_options(FirstLast, options))
        if word in ("every", "all"):
            return Every(**_options(Every, options))
    if kind == "substring":
        return Substring(word, **_options(Substring, options))
    if kind == "indices" or (kind is None and re.fullmatch(r"-?\d+(,-?\d+)*", word)):
        return Indices(tuple(map(int, word.split(","))), **_options(Indices, options))
    if kind is None and (ends := re.fullmatch(r"f(\d+)\W*l(\d+)", word)):
        raise ValueError(f'write "f{ends[1]}+l{ends[2]}" for first and last tokens')
    if kind is None and not re.fullmatch(r"[^\W\d][\w.-]*", word):
        raise ValueError(f"{word!r} is neither a selector nor a name; for a span write span:NAME")
    return Span(word, **_options(Span, options))


def _options(selector: type[PositionSelector], words: Sequence[str]) -> dict[str, Any]:
    defaults = {option.name: option.default for option in fields(selector) if option.kw_only}
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in defaults or bool(equals) == isinstance(defaults[name], bool):
            known = ", ".join(n if d is False else f"{n}=" for n, d in defaults.items())
            raise ValueError(f"{word!r} is not an option here (options: {known})")
        if isinstance(defaults[name], bool):
            options[name] = True
        else:
            options[name] = int(value) if isinstance(defaults[name], int) else value
    return options
