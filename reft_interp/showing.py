"""Prompts with the edited tokens marked, for the terminal and for notebooks.

Below: `encoding` and `selector`. Not here: what an intervention does at these tokens.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from reft_interp.encoding import Offsets, TokenizedBatch
from reft_interp.selector import Positions


@dataclass(frozen=True)
class Piece:
    """A stretch of text: a token, tokens that share a character, or what lies between tokens."""

    text: str
    edited: bool


@dataclass(frozen=True, repr=False)
class Shown:
    """Prompts with the edited tokens marked: `⟦ key⟧` as text, `<mark>` in a notebook."""

    prompts: tuple[tuple[Piece, ...], ...]
    answers: tuple[tuple[Piece, ...], ...]
    """Empty where there is no answer."""

    def __str__(self) -> str:
        """One line a row: its number, the prompt, and behind a bar the answer, if there is one."""
        width = len(str(len(self.prompts) - 1))
        lines = []
        for row, (prompt, answer) in enumerate(zip(self.prompts, self.answers, strict=True)):
            bar = " |" if answer else ""
            lines.append(f"{row:>{width}}: {_marked(prompt)}{bar}{_marked(answer)}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = []
        for row, (prompt, answer) in enumerate(zip(self.prompts, self.answers, strict=True)):
            reply = f"<td>{_marked_html(answer)}</td>" if answer else "<td></td>"
            rows.append(f"<tr><td>{row}</td><td>{_marked_html(prompt)}</td>{reply}</tr>")
        return (
            '<table style="white-space: pre-wrap; text-align: left">'
            "<tr><th></th><th>prompt</th><th>answer</th></tr>" + "".join(rows) + "</table>"
        )


def show(batch: TokenizedBatch, positions: Positions, tokenizer: PreTrainedTokenizerBase) -> Shown:
    """Mark the edited tokens in the prompts and answers of a batch.

    Text is shown as it was given, special tokens as the tokenizer names them, padding not at all.
    Tokens that are parts of one character cannot be told apart in text and are shown as one.
    """
    edited = positions.mask(batch).tolist()
    ids = batch.input_ids.tolist()
    starts, ends = batch.prompt_start.tolist(), batch.prompt_end.tolist()
    prompts, answers = [], []
    for row in range(len(batch)):
        for texts, offsets, start, shown in (
            (batch.prompts, batch.offsets, starts[row], prompts),
            (batch.answers, batch.answer_offsets, ends[row], answers),
        ):
            columns = slice(start, start + len(offsets[row]))
            names = tokenizer.convert_ids_to_tokens(ids[row][columns])
            shown.append(_pieces(texts[row], offsets[row], names, edited[row][columns]))
    return Shown(tuple(prompts), tuple(answers))


def _pieces(
    text: str, offsets: Offsets, names: Sequence[str], edited: Sequence[bool]
) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    done = 0  # characters shown so far
    for (start, end), name, is_edited in zip(offsets.tolist(), names, edited, strict=True):
        if start == end:
            pieces.append(Piece(name, is_edited))
            continue
        if start > done:
            pieces.append(Piece(text[done:start], False))
        if start < done:  # shares a character with the piece before
            before = pieces.pop()
            pieces.append(Piece(before.text + text[done:end], before.edited or is_edited))
        else:
            pieces.append(Piece(text[start:end], is_edited))
        done = max(done, end)
    if done < len(text):
        pieces.append(Piece(text[done:], False))
    return tuple(pieces)


def _marked(pieces: Sequence[Piece]) -> str:
    marked = "".join(f"⟦{piece.text}⟧" if piece.edited else piece.text for piece in pieces)
    return marked.replace("\n", "\\n")  # one row stays one line


def _marked_html(pieces: Sequence[Piece]) -> str:
    texts = ((html.escape(piece.text), piece.edited) for piece in pieces)
    marked = "".join(f"<mark>{text}</mark>" if edited else text for text, edited in texts)
    return marked.replace("\n", "↵\n")
