"""Probe reports as sections of one page."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from reft_interp import plotting
from reft_interp.probing.probe_report import ProbeReport
from reft_interp.report import Report

INTERVALS = "95 % Wilson intervals; of random subspaces, mean and range of the draws."


def document(probes: Sequence[ProbeReport], title: str | None = None) -> Report:
    """A page with what each of several trained interventions encodes."""
    names = list(dict.fromkeys(probe.name for probe in probes))
    page = Report(title or f"What {' and '.join(names)} encode{'s' if len(names) == 1 else ''}")
    add_probes(page, probes)
    for probe in _told_apart(probes):
        page.footer(probe.facts)
    return page


def add_probes(page: Report, probes: Sequence[ProbeReport]) -> None:
    """Add the sections of several probes to a page, question by question. Those of one name get
    numbers, in their order."""
    probes = _told_apart(probes)

    def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
        return pd.concat(frames, ignore_index=True)

    notes = dict.fromkeys(note for probe in probes for note in probe.notes)
    linear = joined([probe.linear for probe in probes])
    page.section(
        "What linear probes read inside",
        "Logistic regression on the untouched model's activations, predictions out of fold; no "
        "subject noun is in training and test at once. *Inside* sees only the coordinates in the "
        "subspace, "
        "*complement* all but them; the controls are random subspaces of the same rank, "
        "shuffled labels and the share of the most frequent label. Where an edit does not touch "
        "the last token, what stands there is only what the untouched model holds. "
        + " ".join(notes),
    )
    for i, (read, frame) in enumerate(linear.groupby("read", sort=False)):
        page.figure(
            plotting.grouped_intervals(
                frame,
                value="value",
                label="part",
                group="subspace",
                xlabel="probe accuracy",
                title=f"Read: {read}",
            ),
            caption=f"Probe accuracy, n = {frame['n'].iloc[0]}. {INTERVALS} Read: {read}.",
            name=f"probes-{i}-{_file_name(str(read))}",
        )
    page.table(
        linear.pivot_table(
            index=["subspace", "read"], columns="part", values="value", sort=False
        ).reset_index(),
        caption="Probe accuracy by part; intervals are in the figures.",
        name="linear-probes",
    )

    tokens = [probe.tokens for probe in probes if len(probe.tokens)]
    if tokens:
        page.section(
            "Which tokens the directions promote",
            "Each direction, and its negative, through the final norm and the unembedding "
            "(TransformerLens's `logit_readout`). The directions are the subspace's principal "
            "axes on the data: a subspace has a span, not directions of its own.",
        )
        page.table(joined(tokens), caption="Tokens by falling logit.", name="promoted-tokens")

    page.section(
        "How the subspaces lie to the one that DAS found",
        "Principal angles: 0° is a shared direction, 90° an orthogonal one. The band is the "
        "middle 95 % of random subspaces of the same ranks.",
    )
    angles = joined([probe.angles for probe in probes])
    # A band is that of one rank. What probes at one place compare with DAS is the same for all.
    bands = joined([probe.expected_angles for probe in probes]).drop_duplicates(["rank", "index"])
    for rank, of_rank in angles.groupby("rank", sort=False):
        page.figure(
            plotting.angles(of_rank, expected=bands.query("rank == @rank")),
            caption=f"Principal angles of subspaces of rank {rank} to the DAS subspace.",
            name=f"principal-angles-{rank}",
        )
    page.table(
        joined([probe.overlaps for probe in probes]),
        caption="Overlap: mean squared cosine of the angles.",
        name="overlaps",
    )

    page.section(
        "The causal variable inside the ReFT's subspace",
        "A distributed interchange inside what the ReFT writes or reads, at its own layer, on "
        "the tokens that DAS was trained on. It is one training with one seed: what a ReFT comes "
        "to read differs between seeds, so train several before the number is believed.",
    )
    # DAS and the controls are the same for all: they stand once, around what is each ReFT's own.
    frame = joined([probe.interchange.to_frame() for probe in probes])
    own = frame["method"].str.contains("writes|reads")
    once = own | ~frame.duplicated("method")
    frame, own = frame[once], own[once]
    place = own.astype(int) + 2 * (~own & (frame["method"] != "DAS")).astype(int)
    frame = frame.iloc[np.argsort(place, kind="stable")]
    page.figure(
        plotting.intervals(
            frame,
            value="value",
            label="method",
            xlabel="interchange intervention accuracy",
            title="",
        ),
        caption=f"{probes[0].interchange.metric}. {INTERVALS}",
        name="interchange-inside",
    )
    page.table(
        frame,
        caption=f"Interchange inside the subspaces. {INTERVALS}",
        name="interchange-inside",
    )

    page.section(
        "The task without the subspace",
        "After the edit, what stands in the subspace is removed: h − RᵀRh. Without what it writes "
        "an edit of one token does nothing by construction, which only checks the ablation; and "
        "removing what it reads comes after it was read, so that a task which survives does not "
        "say that it was not used.",
    )
    page.table(
        # What the untouched model does is the same for all.
        joined([probe.removal for probe in probes]).drop_duplicates(["model", "removed"]),
        caption=f"Task accuracy. {INTERVALS}",
        name="removal",
    )


def _told_apart(probes: Sequence[ProbeReport]) -> list[ProbeReport]:
    """The same probes, with a number behind their names where two have one in common."""
    named = [{probe.name, *probe.linear["subspace"]} for probe in probes]
    return [
        _numbered(probe, i + 1)
        if any(named[i] & other for other in (*named[:i], *named[i + 1 :]))
        else probe
        for i, probe in enumerate(probes)
    ]


def _numbered(probe: ProbeReport, number: int) -> ProbeReport:
    """With a number behind the class that begins the names of all that is a ReFT's own."""
    # The longest first: one may begin another.
    labels = sorted({probe.name, *probe.linear["subspace"]}, key=len, reverse=True)
    own = re.compile(rf"({'|'.join(map(re.escape, labels))})")

    def name(text: str) -> str:
        return re.sub(r"^\w+", rf"\g<0> {number}", text) if own.match(text) else text

    def renamed(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
        held = [column for column in columns if column in frame]
        return frame.assign(**{column: frame[column].map(name) for column in held})

    return replace(
        probe,
        name=name(probe.name),
        notes=tuple(map(name, probe.notes)),
        linear=renamed(probe.linear, "subspace"),
        tokens=renamed(probe.tokens, "subspace"),
        angles=renamed(probe.angles, "series"),
        overlaps=renamed(probe.overlaps, "subspace"),
        interchange=replace(
            probe.interchange,
            rows=tuple((name(method), scores) for method, scores in probe.interchange.rows),
        ),
        removal=renamed(probe.removal, "model", "removed"),
        facts={name(fact): value for fact, value in probe.facts.items()},
    )


def _file_name(text: str) -> str:
    """What a name has of letters that every file system takes, where there are any."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
    return plain.strip("-")[:60] or "tokens"
