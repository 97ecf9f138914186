"""The cells of a sweep that are searched where its places are screened: once, and kept in its
folder.

What a screening keeps may hang on a rounding; screened again by whoever goes on, or helps, a folder
might be taken for that of another sweep. Next door: `das_sweep` searches them.
"""

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals, DASCell, screen_cells
from reft_interp.sweeps.das_sweep_run import described_cell, described_data
from reft_interp.sweeps.folder import check_holds, read_json, write_json


def screened_cells(
    model: TransformerBridge,
    pairs: Counterfactuals,
    cells: Sequence[DASCell],
    share: float,
    folder: Path,
) -> list[DASCell]:
    """The cells that a sweep's folder keeps, screened by the first who asks.

    Args:
        model: the hooked model.
        pairs: of the sweep; it is screened on `pairs.train`.
        cells: all that might be searched.
        share: of their places that is kept.
        folder: of the sweep; made if needed.

    Raises:
        ValueError: the folder holds another sweep or another screening, or as `screen_cells`.
    """
    data = described_data(model, pairs)
    check_holds(folder, data, "sweep")
    folder.mkdir(parents=True, exist_ok=True)
    described = {**data, "cells": [described_cell(cell) for cell in cells], "screen": share}
    file = folder / "screening.json"
    with FileLock(folder / "screening.lock"):
        check_holds(folder, described, "screening")
        if not file.is_file():
            begun = folder / "sweep.json"
            if begun.is_file():  # by a version that kept no screening
                searched = read_json(begun)["cells"]
                kept = [i for i, cell in enumerate(described["cells"]) if cell in searched]
            else:
                some = screen_cells(model, pairs.train, cells, share)
                kept = [i for i, cell in enumerate(cells) if cell in some]
            write_json(file, {**described, "kept": kept})
    return [cells[i] for i in read_json(file)["kept"]]
