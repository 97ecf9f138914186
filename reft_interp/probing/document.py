"""Probe reports as sections of one page."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reft_interp import plotting
from reft_interp.probing.probe import ProbeReport
from reft_interp.report import Report

INTERVALS = "95 % Wilson intervals; of random subspaces, mean and range of the draws."


def document(probes: Sequence[ProbeReport], title: str | None = None) -> Report:
    """A page with what each of several trained interventions encodes."""
    names = " and ".join(probe.name for probe in probes)
    page = Report(title or f"What {names} encode{'s' if len(probes) == 1 else ''}")
    add_probes(page, probes)
    for probe in probes:
        page.footer(probe.facts)
    return page


def add_probes(page: Report, probes: Sequence[ProbeReport]) -> None:
    """Add the sections of several probes to a page, question by question."""

    def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
        return pd.concat(frames, ignore_index=True)

    notes = [note for probe in probes for note in probe.notes]
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
    frame = joined([probe.interchange.to_frame() for probe in probes]).drop_duplicates("method")
    own = frame["method"].str.contains("writes|reads")
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


def _file_name(text: str) -> str:
    """What a name has of letters that every file system takes, where there are any."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
    return plain.strip("-")[:60] or "tokens"
