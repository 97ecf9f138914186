"""Trained interventions and classifiers on the Hugging Face hub: put there with a card, and read
from there.

Next door: `model_card` writes the card, `export` the part that runs without this package.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.adapted_classifier import AdaptedClassifier
from reft_interp.interop.export import export_to_transformers
from reft_interp.interop.model_card import complete_card, model_card
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.trained import Trained, intervened_of
from reft_interp.training import Classifier, ClassifierResult
from reft_interp.training.classifier_saving import (
    is_classifier,
    load_classifier,
    read_config,
    shared_files,
)

_OURS = ("config.json", "interventions.safetensors")
_CARD = "README.md"
_UNREACHABLE = "{!r} is no local folder, and the Hugging Face hub cannot be reached"
_BESIDE = ("edits.py", "edits.json", "edits.safetensors", _CARD)


def push_to_hub(
    shared: Trained | Classifier | ClassifierResult | str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    scores: pd.DataFrame | None = None,
    notes: Mapping[str, Any] | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Put trained interventions, or a classifier, on the Hugging Face hub, with a card that says
    what they are.

    Beside what `IntervenedModel.save` writes there is `edits.py`, which runs them on a plain
    transformers model, if they are of a kind that `export_to_transformers` can write; a classifier
    goes without it, since a plain model has no place for its head. What `config.json` says goes
    along, also the base model's name, which may be a folder of yours.

    Args:
        shared: the intervened model, a classifier, a result that holds either (whose settings are
            then the notes), or a folder that its `save` wrote. Of a folder those files go that this
            package writes and reads, and its `README.md`: its text is the card's, with the scores
            at the end, and what its metadata lack is added.
        repo_id: "name/repository"; made if it does not exist.
        license: of what is shared, by its identifier on the hub, as "mit"; part of the card.
            Given, it replaces what a `README.md` says.
        scores: a table for the card, as results have by `to_frame`.
        notes: how it was trained, for `config.json` and the card; a folder and what
            `fit_classifier` gave have their own.
        private: whether a repository that is made is private; as the account has it by default.
        token: of the hub; the one of `hf auth login` by default.

    Returns:
        The address of the repository.

    Raises:
        TypeError: nothing that can be shared.
        FileNotFoundError: the folder holds no saved intervention.
        ValueError: `repo_id` cannot be a name on the hub, the folder is damaged, the metadata of
            its `README.md` cannot be read, or notes are given beside what has its own.
        ConnectionError: the hub cannot be reached.
        PermissionError: the hub does not let this account write there.
    """
    if notes is not None and isinstance(shared, str | Path | ClassifierResult):
        of = "result" if isinstance(shared, ClassifierResult) else "folder"
        raise ValueError(f"notes belong to the {of}, which was saved with its own")
    with TemporaryDirectory() as name:
        folder = Path(name)
        if isinstance(shared, str | Path):
            _copy(Path(shared), folder)
        elif isinstance(shared, ClassifierResult):
            with TemporaryDirectory() as whole:
                shared.save(whole)
                _copy(Path(whole), folder)
        elif isinstance(shared, AdaptedClassifier):
            raise TypeError(
                "shared: an adapted encoder is shared by peft's own push_to_hub, got an "
                "AdaptedClassifier"
            )
        elif isinstance(shared, Classifier):
            shared.save(folder, notes)
        else:
            intervened = intervened_of(shared, "shared")
            if notes is None and not isinstance(shared, IntervenedModel):
                notes = {"training": shared.settings}
            intervened.save(folder, notes)
            _export(intervened, folder)
        if (folder / _CARD).is_file():
            complete_card(folder / _CARD, repo_id, license=license, scores=scores)
        else:
            card = model_card(folder, repo_id, license=license, scores=scores)
            (folder / _CARD).write_text(str(card), encoding="utf-8")
        api = HfApi(token=token, library_name="reft_interp")
        with _told(repo_id):
            made = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=made.repo_id,
                folder_path=folder,
                commit_message="Upload interventions trained with reft_interp",
            )
        return str(made)


def from_pretrained(
    name_or_path: str | Path,
    model: TransformerBridge,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> IntervenedModel | Any:  # Any for Classifier, so that no caller has to ask which it got
    """Interventions from the Hugging Face hub or a local folder, placed in `model`; a `Classifier`,
    where that is what is there.

    Of the repository two files are read, of a classifier's four, none of which is executed.

    Args:
        name_or_path: "name/repository", where `push_to_hub` put it, or a folder that
            `IntervenedModel.save` or `Classifier.save` wrote.
        model: the model that they were trained on.
        revision: branch, tag or commit on the hub.
        token: of the hub, for a private repository.

    Raises:
        FileNotFoundError: the repository or folder holds no saved intervention or classifier.
        ValueError: no such repository or revision; or as `IntervenedModel.load`.
        ConnectionError: the hub cannot be reached, and its local cache has no copy.
        PermissionError: the hub does not let this account read it.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision is for the hub, and {folder} is a local folder")
        return _load(folder, model)
    files = [*_OURS, *shared_files({"interventions": True})]
    return _load(downloaded(str(name_or_path), files, revision=revision, token=token), model)


def downloaded(
    name: str, files: Sequence[str], *, revision: str | None = None, token: str | None = None
) -> Path:
    """A local copy of some files of a repository on the hub.

    Args:
        name: "name/repository".
        files: their names, or patterns of them.
        revision: branch, tag or commit.
        token: of the hub, for a private repository.
    """
    with _told(name):
        found = snapshot_download(
            name,
            revision=revision,
            token=token,
            allow_patterns=list(files),
            library_name="reft_interp",
        )
    return Path(str(found))


def _load(folder: Path, model: TransformerBridge) -> IntervenedModel | Classifier:
    if is_classifier(folder):
        return load_classifier(Classifier, folder, model)
    return IntervenedModel.load(folder, model)


def _export(intervened: IntervenedModel, folder: Path) -> None:
    try:
        export_to_transformers(intervened, folder)
    except ValueError as error:
        warnings.warn(f"shared without edits.py: {error}", stacklevel=3)


def _copy(given: Path, folder: Path) -> None:
    """The files of ours, those beside them that may be there, and nothing else."""
    classifier = is_classifier(given)
    needed = shared_files(read_config(given)) if classifier else _OURS
    for name in needed:
        if not (given / name).is_file():
            what = "whole classifier" if classifier else "saved intervention"
            raise FileNotFoundError(f"{given} holds no {what}: there is no {name} in it")
    for name in (*needed, *([_CARD] if classifier else _BESIDE)):
        if (given / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(given / name, folder / name)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in one sentence what the hub's many errors mean for the caller."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(
            f"{name!r} is no local folder, and cannot be a name on the Hugging Face hub: {error}"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(
            f"the Hugging Face hub has no {name!r} of that revision, or it is private (and no such "
            f"folder is here): {error}"
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ConnectionError(_UNREACHABLE.format(name)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"the Hugging Face hub does not let this account use {name!r}: log in with "
                f"`hf auth login` or give a token that may. {error}"
            ) from error
        raise ConnectionError(f"the Hugging Face hub failed on {name!r}: {error}") from error
    except HTTPError as error:  # of whichever HTTP client huggingface_hub uses
        raise ConnectionError(_UNREACHABLE.format(name)) from error
