"""Judging free text: how often a system's outputs are preferred to a reference system's.

Here: the win rate, for any judge, and a judge that needs no network. Next door: `openai_judge`
asks a language model. AlpacaEval's own score is made by its own package, from what
`write_outputs` writes: nothing here is it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq

from reft_interp.evaluation import mean_and_interval
from reft_interp.tasks.suites.verdicts import KeptVerdicts, Texts, Verdict

Judge = Callable[[str, str, str], float]
"""`judge(instruction, output, reference)`: 1 if the output is better, 0 if the reference is, or
anything between; raises `NoVerdict` where it can't say."""


class NoVerdict(ValueError):
    """A judge did not say which of two outputs is better."""


@dataclass(frozen=True)
class WinRate:
    """How often a system's outputs were preferred to a reference system's."""

    judge: str
    generator: str
    reference: str
    scores: tuple[float, ...] = field(repr=False)
    """What the judge said of each instruction of which it said anything, in [0, 1]."""
    without_verdict: int = 0
    """Instructions of which it said nothing that can be read; they count for neither."""

    @property
    def n(self) -> int:
        """Instructions that were judged."""
        return len(self.scores)

    @property
    def value(self) -> float:
        """The mean score."""
        return sum(self.scores) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `value` (Student's t, within [0, 1]; where all scores are alike, as
        wide as Wilson's of a share of which no row was seen); NaN for one instruction."""
        _, low, high = mean_and_interval(np.array(self.scores), (0.0, 1.0))
        return tuple(np.clip((low, high), 0.0, 1.0).tolist())

    def __str__(self) -> str:
        low, high = self.interval
        left = f", {self.without_verdict} without a verdict" if self.without_verdict else ""
        return (
            f"{self.generator} against {self.reference}, judged by {self.judge}: "
            f"{self.value:.3f} [{low:.3f}, {high:.3f}] n={self.n}{left}"
        )


def win_rate(
    outputs: Sequence[Mapping[str, Any]],
    reference: Sequence[Mapping[str, Any]],
    judge: Judge,
    *,
    verdicts: str | Path | None = None,
) -> WinRate:
    """Ask a judge about every output.

    Args:
        outputs: records with `instruction` and `output`, as `read_outputs` gives them.
        reference: likewise, of the system to compare with; may have further instructions.
        judge: any callable of instruction, output and reference output. Where it raises
            `NoVerdict`, the others count.
        verdicts: a file (JSON lines) that keeps each verdict as soon as it is given. Where the
            judge fails on the way, say because its server is gone (ConnectionError), a second
            call asks for what is missing only. Verdicts go by the judge's name (`__name__`),
            which has to say which judge it is: delete the file to ask one of that name anew.

    Raises:
        ValueError: no outputs, a record without instruction or output, an instruction that the
            reference lacks or has twice, a score outside [0, 1] (NaN included) or that is no
            number, `verdicts` for a judge without a name, or a file of something else.
        NoVerdict: the judge gave no verdict on any of them.
    """
    if not outputs:
        raise ValueError("outputs must hold at least one record, got none")
    for argument, records in (("outputs", outputs), ("reference", reference)):
        for i, record in enumerate(records):
            if missing := {"instruction", "output"} - set(record):
                raise ValueError(
                    f"{argument}: record {i} lacks {sorted(missing)}; it has {sorted(record)}"
                )
    answers: dict[str, str] = {}
    for record in reference:
        if answers.setdefault(record["instruction"], record["output"]) != record["output"]:
            raise ValueError(
                f"reference must have one output an instruction, got two for "
                f"{record['instruction']!r}"
            )
    missing = [r["instruction"] for r in outputs if r["instruction"] not in answers]
    if missing:
        raise ValueError(
            f"reference must have every instruction of outputs, {len(missing)} are missing, the "
            f"first is {missing[0]!r}"
        )
    if verdicts is not None and getattr(judge, "__name__", "<lambda>") == "<lambda>":
        raise ValueError(
            "verdicts: they are kept by the judge's name, but this judge has none; set its "
            f"__name__ to say which judge it is, got {judge!r}"
        )
    name = getattr(judge, "__name__", None) or str(judge)
    ask = partial(_ask, judge, name)
    kept = None if verdicts is None else KeptVerdicts(Path(verdicts), name)
    said: list[Verdict] = []
    for record in outputs:
        texts = record["instruction"], record["output"], answers[record["instruction"]]
        try:
            said.append(ask(texts) if kept is None else kept.get(texts, ask))
        except ConnectionError as error:
            if kept is not None:
                error.add_note(f"{len(said)} of {len(outputs)} verdicts are kept in {verdicts}")
            raise
    scores = tuple(float(verdict) for verdict in said if not isinstance(verdict, str))
    if not scores:
        raise NoVerdict(f"{name} gave no verdict on any of {len(outputs)} outputs: {said[0]}")
    systems = _generator(outputs), _generator(reference)
    return WinRate(name, *systems, scores, without_verdict=len(said) - len(scores))


def _ask(judge: Judge, name: str, texts: Texts) -> Verdict:
    try:
        score = judge(*texts)
    except NoVerdict as error:
        return str(error)
    # A number of NumPy's or torch's is one, too.
    if isinstance(score, str) or not hasattr(score, "__float__") or not 0 <= float(score) <= 1:
        raise ValueError(
            f"judge must give a number from 0 to 1, {name} gave {score!r} for {texts[0]!r}"
        )
    return float(score)


def rouge_l_proxy(instruction: str, output: str, reference: str) -> float:
    """A judge without a network: ROUGE-L F1 of the output with the reference output.

    A proxy: it says how much of the reference's wording is met, not which of the two is better,
    and gives 1 to a copy of it. Use it to compare systems with each other, or to test a pipeline.
    """
    return rouge_l(output, reference)


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1 (Lin 2004): 2 L / (m + n), L the longest common subsequence of m and n words.

    >>> rouge_l("police kill the gunman", "police killed the gunman")
    0.75

    Words are runs of letters and digits, in lower case; 0 where either text has none.
    """
    words, wanted = _words(text), _words(reference)
    if not words or not wanted:
        return 0.0
    return 2 * LCSseq.similarity(words, wanted) / (len(words) + len(wanted))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _generator(records: Sequence[Mapping[str, Any]]) -> str:
    names = {str(record["generator"]) for record in records if record.get("generator")}
    return ", ".join(sorted(names)) or "unnamed"
