"""Read the folders that pyreft saves: `config.json` and one `intkey_*.bin` an intervention.

Next door: `pyreft_saving` writes them, `pyreft_classifier` reads those with a classification head,
`pyvene_folder` reads what both pyreft and pyvene write, `pyvene_places` knows the places in the
model, `pyreft_classes` what the tensors mean. Here: which tokens. pyreft itself is not needed.
`benchmarks/parity.py` compares with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.pyreft_classes import CLASSES, convert, part_of_loreft
from reft_interp.interop.pyvene_folder import (
    MODEL_WEIGHTS,
    find_file,
    local_folder,
    read_config,
    read_tensors,
)
from reft_interp.interop.pyvene_places import site_of
from reft_interp.interventions import Intervention
from reft_interp.models import identify
from reft_interp.positions import FirstLast, PositionSelector, parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site

# pyreft's notebook on composition defines it, and those who compose copy it: it is LoReFT on some
# of its rows, which every example names.
_COMPOSED = "SubloreftIntervention"

HEAD_TENSORS = {
    f"classifier.{layer}.{part}" for layer in ("dense", "out_proj") for part in ("weight", "bias")
}
"""What pyreft saves of RoBERTa's classification head, where it is trained too."""

Subspaces = Sequence[int] | Mapping[str, Sequence[int]]


def load_pyreft(
    folder: str | Path,
    model: TransformerBridge,
    *,
    on: str | PositionSelector | Sequence[str | PositionSelector],
    act_fn: str | None = None,
    ignore_model_weights: bool = False,
    subspaces: Subspaces | None = None,
) -> IntervenedModel:
    """The interventions in a folder that `ReftModel.save` wrote, placed in `model`.

    Nothing in the folder is executed: the tensors are read with `weights_only=True`. pyreft
    records neither the positions nor the activation function, so both are arguments.

    Args:
        folder: with `config.json` and the `intkey_*.bin` files; or "name/repository" on the Hugging
            Face hub, where there is no such folder.
        model: the model that they were trained on.
        on: the tokens, as they were in training. "f3+l3" and its like are rounded as pyreft
            does: ⌊n/2⌋ tokens of a prompt at most on either side. pyreft's ReftSupervisedDataset,
            ReftGenerationDataset and ReftClassificationDataset leave out the last token before
            they count: "f3+l3 rounding=pyreft-but-last". In a folder with two
            interventions at each place (prefix and suffix, `share_weights=False`), the first half
            of them gets the f, the second the l. A list says it outright: one for each
            intervention in the folder's order, or two, for the two halves.
        act_fn: what was given to pyreft under that name.
        ignore_model_weights: load also where the folder holds trained weights of the base model
            (`include_model=True`), which stay unread.
        subspaces: for folders of SubloreftIntervention, the class that pyreft's notebook on
            composition defines, and for them alone: the coordinates of its subspace in which it
            edits, numbers below its rank, the same in each intervention of the folder. One list,
            as `[0, 1]`, is for all prompts; named lists, as `{"formal": [0, 1], "french": [2, 3],
            "both": [0, 1, 2, 3]}`, are switched by what each row of a batch has as `edits`
            (`{"prompt": ..., "edits": "formal"}`; a row without it is not edited). pyreft takes
            such a list for every example and intervention.

    Raises:
        FileNotFoundError: `config.json` or the file of an intervention is missing.
        ValueError: the folder is not pyreft's, is damaged or tries to execute something; a class
            or component that cannot be read (the message lists those that can); it was trained
            on a model of another depth or width; `on`, `act_fn` or `subspaces` does not fit it; the
            hub has no such repository.
        ConnectionError: the hub cannot be reached, and its local cache has no copy.
        PermissionError: the hub does not let this account read it.
    """
    folder = local_folder(folder)
    saved = read_config(folder, "pyreft", CLASSES, copied=[_COMPOSED])
    for number, entry in enumerate(saved):
        if entry.link is not None:
            raise ValueError(
                f"{folder}, intervention {number}: intervention_link_key cannot be read, "
                f"got {entry.link!r}"
            )
    _check_subspaces(subspaces, [entry.kind for entry in saved], folder)
    _check_model_weights(folder, ignore_model_weights)
    sites = [site_of(entry, model) for entry in saved]
    positions = _positions(on, sites)
    placements = []
    for entry, site, where in zip(saved, sites, positions, strict=True):
        file = find_file(folder, entry.files)
        for name, intervention in _read_interventions(file, entry.kind, act_fn, subspaces):
            width = site.width(model)
            if intervention.width != width:
                raise ValueError(
                    f"{file} holds an intervention {intervention.width} wide, but {site} of "
                    f"{identify(model).name} is {width} wide. Was it trained on another model?"
                )
            placements.append(Placement(intervention, site, where, name=name))
    return IntervenedModel(model, placements)


def _positions(
    on: str | PositionSelector | Sequence[str | PositionSelector], sites: Sequence[Site]
) -> list[PositionSelector]:
    count, half = len(sites), len(sites) // 2
    if not isinstance(on, str | PositionSelector):
        each = [_as_pyreft(selector) for selector in on]
        if len(each) == count:
            return each
        if len(each) == 2 and count % 2 == 0:
            return each[:1] * half + each[1:] * half
        raise ValueError(
            f"on must be one selector, two (for the halves of an even number of interventions) "
            f"or {count} (one for each intervention of the folder), got {len(each)}"
        )
    selector = _as_pyreft(on)
    if len(set(sites)) == count:
        return [selector] * count
    # pyreft lists the prefix's interventions, then the suffix's at the same places.
    paired = count % 2 == 0 and set(sites[:half]) == set(sites[half:]) and len(set(sites)) == half
    if not (paired and isinstance(selector, FirstLast) and selector.first and selector.last):
        raise ValueError(
            f"on={str(selector)!r} does not say which tokens each intervention edits: the folder "
            "has several at one place. Give 'f3+l3' and its like for prefix and suffix, or a "
            f"list with a selector for each: {', '.join(map(str, sites))}"
        )
    prefix, suffix = replace(selector, last=0), replace(selector, first=0)
    return [*[prefix] * half, *[suffix] * half]


def _as_pyreft(on: str | PositionSelector) -> PositionSelector:
    selector = parse_positions(on)
    if isinstance(selector, FirstLast) and selector.rounding != "pyreft-but-last":
        return replace(selector, rounding="pyreft")
    return selector


def _check_subspaces(subspaces: Subspaces | None, kinds: Sequence[str], folder: Path) -> None:
    if subspaces is None and _COMPOSED in kinds:
        raise ValueError(
            f"{folder} holds {_COMPOSED}, of which each example edits some rows: say which, as in "
            'subspaces=[0, 1] or subspaces={"formal": [0, 1], "french": [2, 3]}'
        )
    if subspaces is not None and _COMPOSED not in kinds:
        raise ValueError(
            f"subspaces are for {_COMPOSED}, but {folder} holds {', '.join(sorted(set(kinds)))}, "
            "which edit with all of their rows whatever pyreft is told"
        )


def _read_interventions(
    file: Path, kind: str, act_fn: str | None, subspaces: Subspaces | None
) -> list[tuple[str | None, Intervention]]:
    """The intervention of a file, or those of its named parts."""
    try:
        tensors = read_tensors(file)
        if kind != _COMPOSED or subspaces is None:
            return [(None, convert(kind, tensors, act_fn))]
        named = subspaces if isinstance(subspaces, Mapping) else {None: subspaces}
        parts = [(name, part_of_loreft(tensors, rows)) for name, rows in named.items()]
        return [(name, convert("LoreftIntervention", part, act_fn)) for name, part in parts]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _check_model_weights(folder: Path, ignore: bool) -> None:
    file = folder / MODEL_WEIGHTS
    if ignore or not file.is_file():
        return
    try:
        weights = read_tensors(file)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if weights.keys() == HEAD_TENSORS:
        raise ValueError(
            f"{file} holds a classification head, which interop.load_pyreft_classifier reads with "
            "the interventions; for these alone, say ignore_model_weights=True"
        )
    if weights:
        raise ValueError(
            f"{file} holds weights of the base model that were trained too: "
            f"{', '.join(list(weights)[:3])}{', ...' if len(weights) > 3 else ''}. Without them "
            "the interventions do not compute what they did. Put them into the model before it "
            "is hooked, and say ignore_model_weights=True."
        )
