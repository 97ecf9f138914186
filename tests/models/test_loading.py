import json
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import transformers
from gguf import GGUFWriter
from tiny_models import tiny_that_sees
from torch.testing import assert_close
from transformer_lens.model_bridge.sources.transformers import helpers
from transformers import AutoTokenizer

from reft_interp.models import identify, load_model, wrap_model
from reft_interp.models.gguf_files import gguf_to_folder

PROMPTS = ["The keys to the old cabinet", "Paris"]


@pytest.fixture
def save(tmp_path, tiny_parts):
    """Save a tiny model to a folder, as anybody would with transformers."""

    def to_folder(architecture, **overrides):
        hf_model, tokenizer = tiny_parts(architecture, **overrides)
        folder = tmp_path / architecture
        hf_model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return to_folder


ALL = ["gpt2", "gpt_neox", "llama", "qwen2", "gemma2", "bert", "mixtral"]


@pytest.mark.parametrize("architecture", ALL)
def test_a_folder_gives_the_logits_of_transformers(save, tiny_parts, architecture):
    original, _ = tiny_parts(architecture)
    model = load_model(save(architecture), device="cpu")
    ids = model.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        # Eager against sdpa attention, float32: rounding of logits of size 1.
        assert_close(model(ids), original(ids).logits, rtol=0, atol=5e-6)


@pytest.mark.parametrize("architecture", ALL)
def test_the_tokenizer_is_the_one_of_transformers(save, architecture):
    folder = save(architecture)
    tokenizer = load_model(folder, device="cpu").tokenizer
    own = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(PROMPTS).input_ids == own(PROMPTS).input_ids
    assert len(tokenizer) == len(own)
    assert "add_bos_token" not in tokenizer.init_kwargs or "add_bos_token" in own.init_kwargs


def test_a_loaded_model_is_frozen(save):
    model = load_model(save("gpt2"), device="cpu")
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert identify(model).name.endswith("gpt2")


def test_wrapping_leaves_the_weights_alone(tiny_parts):
    hf_model, tokenizer = tiny_parts("llama")
    weights = list(hf_model.parameters())
    before = [w.clone() for w in weights]
    model = wrap_model(hf_model, tokenizer, name="tiny", device="cpu")
    assert {id(w) for w in model.parameters()} == {id(w) for w in weights}
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_a_tokenizer_without_a_pad_token_pads_with_end_of_sequence(tiny_parts):
    hf_model, tokenizer = tiny_parts("llama")
    tokenizer.pad_token = None
    model = wrap_model(hf_model, tokenizer, name="tiny")
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id is not None


def test_weights_come_in_the_dtype_asked_for(save):
    folder = save("llama")
    model = load_model(folder, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert identify(model).dtype == "bfloat16"


def test_loading_is_silent(save, capfd):
    folder = save("llama")
    capfd.readouterr()
    load_model(folder, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_stays_empty_is_refused(tiny_parts):
    hf_model, tokenizer = tiny_parts("llama")

    def rename(module, args, kwargs):
        # What transformers 5.24 does, seen from transformer-lens 4.3.
        kwargs["cache"] = kwargs.pop("past_key_values", None)
        return args, kwargs

    for layer in hf_model.model.layers:
        layer.register_forward_pre_hook(rename, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"key-value cache differ.*transformer-lens 4.*: pip"):
        wrap_model(hf_model, tokenizer, name="tiny")


def test_an_encoder_without_a_head_gets_one_and_says_so(tiny_parts, tmp_path):
    hf_model, tokenizer = tiny_parts("bert")
    hf_model.bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with pytest.warns(UserWarning, match=r"no weights for cls\.predictions.*are random"):
        model = load_model(tmp_path, device="cpu")
    with pytest.warns(UserWarning, match="are random"):
        again = load_model(tmp_path, device="cpu")
    assert torch.equal(model(ids), again(ids))  # random, but the same at each load
    with torch.no_grad():
        truth = hf_model.bert(ids).last_hidden_state
        _, cache = model.run_with_cache(ids)
    assert_close(cache["blocks.1.hook_resid_post"], truth, rtol=0, atol=5e-6)


@contextmanager
def nowhere_hub():
    """A hub on this machine that has no models at all."""

    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class TestGGUF:
    @pytest.fixture
    def file(self, tiny_parts, tmp_path):
        """A tiny llama, written tensor by tensor with the gguf library."""
        hf_model, tokenizer = tiny_parts("llama", tie_word_embeddings=False)
        config, file = hf_model.config, tmp_path / "tiny.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(config.vocab_size)
        tokens = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_bos_token_id(tokenizer.bos_token_id)
        writer.add_eos_token_id(tokenizer.eos_token_id)
        names = {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
            "input_layernorm.weight": "attn_norm.weight",
            "post_attention_layernorm.weight": "ffn_norm.weight",
            "self_attn.q_proj.weight": "attn_q.weight",
            "self_attn.k_proj.weight": "attn_k.weight",
            "self_attn.v_proj.weight": "attn_v.weight",
            "self_attn.o_proj.weight": "attn_output.weight",
            "mlp.gate_proj.weight": "ffn_gate.weight",
            "mlp.up_proj.weight": "ffn_up.weight",
            "mlp.down_proj.weight": "ffn_down.weight",
        }
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
        for name, weight in hf_model.state_dict().items():
            if name in names:
                writer.add_tensor(names[name], weight.numpy())
                continue
            _, _, layer, rest = name.split(".", 3)
            for which, n in heads.items():
                if rest == f"self_attn.{which}_proj.weight":
                    # llama.cpp rotates neighbouring pairs, transformers the two halves.
                    halves = weight.view(n, 2, -1, weight.shape[1])
                    weight = halves.swapaxes(1, 2).reshape(weight.shape).contiguous()
            writer.add_tensor(f"blk.{layer}.{names[rest]}", weight.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    def test_a_gguf_file_gives_the_logits_of_what_was_written(self, file, tiny_parts):
        original, _ = tiny_parts("llama", tie_word_embeddings=False)
        model = load_model(file, device="cpu")
        ids = torch.arange(5, 25)[None]
        with torch.no_grad():
            assert_close(model(ids), original(ids).logits, rtol=0, atol=5e-6)
        assert not hasattr(model.original_model.config, "quantization_config")

    def test_the_folder_made_from_it_gives_the_same(self, file, tmp_path):
        gguf_to_folder(file, tmp_path / "folder")
        ids = torch.arange(5, 25)[None]
        with torch.no_grad():
            one = load_model(file, device="cpu")(ids)
            other = load_model(tmp_path / "folder", device="cpu")(ids)
        assert torch.equal(one, other)

    def test_a_file_that_is_no_gguf_is_refused(self, tmp_path):
        (tmp_path / "bad.gguf").write_bytes(b"not a model")
        with pytest.raises(ValueError, match=r"name: transformers can't read .*bad\.gguf"):
            load_model(tmp_path / "bad.gguf")


class TestNames:
    def test_offline_the_error_says_what_works_offline(self):
        with pytest.raises(ConnectionError, match=r"'smollm2'.*local folder.*\.gguf"):
            load_model("no-such-org/no-such-model")

    def test_a_name_that_is_almost_the_embedded_models(self):
        with pytest.raises(ConnectionError, match=r"reached \(did you mean 'smollm2'\?\)"):
            load_model("SmolLM")

    def test_a_name_that_cannot_be_one(self):
        with pytest.raises(ValueError, match=r"name: 'a/b/c' is no local folder or \.gguf file"):
            load_model("a/b/c")

    def test_a_missing_gguf_file(self):
        with pytest.raises(ValueError, match=r"name: there is no file nowhere\.gguf"):
            load_model("nowhere.gguf")

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no transformers model: no config\.json"):
            load_model(tmp_path)

    def test_a_folder_without_weights(self, save):
        folder = save("gpt2")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ValueError, match=r"name: can't load the folder .*safetensors"):
            load_model(folder)

    def test_a_name_that_the_hub_does_not_know(self, monkeypatch, caplog):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with nowhere_hub() as address, caplog.at_level("WARNING", "reft_interp.models.loading"):
            monkeypatch.setattr(
                "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
                address + "/{repo_id}/resolve/{revision}/{filename}",
            )
            with pytest.raises(ValueError, match="name: can't load 'no-such-org/model' from the"):
                load_model("no-such-org/model")
        assert "Fetching no-such-org/model from the Hugging Face hub." in caplog.text

    def test_a_revision_is_for_the_hub(self, tmp_path):
        with pytest.raises(ValueError, match="revision is for models on the hub"):
            load_model(tmp_path, revision="main")

    def test_an_architecture_without_an_adapter(self, save):
        folder = save("bert")
        config = transformers.DistilBertConfig(architectures=["DistilBertForMaskedLM"])
        config.save_pretrained(folder)
        with pytest.raises(ValueError, match=r"no adapter for .*DistilBertForMaskedLM"):
            load_model(folder)

    def test_an_encoder_with_a_decoder(self, tiny_parts):
        config = transformers.T5Config(
            vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
        )
        hf_model = transformers.T5ForConditionalGeneration(config)
        with pytest.raises(ValueError, match="encoder and a decoder"):
            wrap_model(hf_model, tiny_parts("llama")[1], name="t5")

    def test_a_model_in_the_cache_of_the_hub_works_offline(self, save, tmp_path, monkeypatch):
        # The layout in which huggingface_hub keeps what it has downloaded.
        commit = "0123456789abcdef0123456789abcdef01234567"
        repo = tmp_path / "hub" / "models--org--tiny"
        shutil.copytree(save("llama"), repo / "snapshots" / commit)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        model = load_model("org/tiny", device="cpu")
        assert identify(model).name == "org/tiny"
        assert identify(model).revision == commit


def test_nothing_is_installed_for_a_model_that_sees_images(monkeypatch):
    """The bridge would install torchvision, and another torch with it, under this process."""
    ran = []
    monkeypatch.setattr(helpers, "_ensure_torchvision", lambda: ran.append(1))
    bridge = wrap_model(*tiny_that_sees("LlavaForConditionalGeneration"), name="tiny")
    assert not ran
    assert bridge.cfg.n_layers == 2
    helpers._ensure_torchvision()
    assert ran  # it is as it was
