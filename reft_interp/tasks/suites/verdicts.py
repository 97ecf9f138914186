"""What a judge said, kept on disk as soon as it is said: one JSON object a line."""

import json
from collections.abc import Callable
from pathlib import Path

Texts = tuple[str, str, str]
"""Instruction, output and reference output."""

Verdict = float | str
"""A score in [0, 1], or why there is none."""

_KEY = ("judge", "instruction", "output", "reference")


class KeptVerdicts:
    """A file of verdicts, read where it exists; each new one is added to it at once.

    A verdict belongs to its judge's name and its three texts: where one of them changes, it is
    asked for anew.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be written.
    """

    def __init__(self, file: Path, judge: str) -> None:
        self._file, self._judge = file, judge
        self._known: dict[tuple[str, ...], Verdict] = {}
        if file.exists():
            self._read()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8"):  # before anybody is asked
            pass

    def get(self, texts: Texts, ask: Callable[[Texts], Verdict]) -> Verdict:
        """What was said of these texts; `ask` is called where that is not known."""
        key = (self._judge, *texts)
        if key not in self._known:
            self._known[key] = ask(texts)
            line = dict(zip((*_KEY, "verdict"), (*key, self._known[key]), strict=True))
            with self._file.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return self._known[key]

    def _read(self) -> None:
        written = self._file.read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                found = json.loads(line)
                *key, verdict = (found[name] for name in (*_KEY, "verdict"))
                known = all(isinstance(text, str) for text in key)
                if not known or not isinstance(verdict, float | int | str):
                    raise TypeError
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(
                    f"verdicts: line {number} of {self._file} must be a verdict that was kept "
                    f"there, got {line[:200]!r}"
                ) from error
            self._known[tuple(key)] = verdict
        if whole != written:  # a process was killed, or the disk full, in the middle of a line
            self._file.write_bytes(whole)
