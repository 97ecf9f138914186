"""Exported edits, on plain transformers models: as in our own runs, without our package."""

import importlib.util
import json
import runpy
import subprocess
import sys
import textwrap
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_that_sees
from torch.testing import assert_close
from trained import PROMPTS, RANK, SOURCELESS, trained
from transformers import OPTConfig, OPTForCausalLM

from reft_interp.interop import export_to_transformers
from reft_interp.interop.transformers_edits import _pick
from reft_interp.interventions import DistributedInterchange, Interchange, LoReFT, VectorAddition
from reft_interp.interventions.edits import Add
from reft_interp.interventions.rows import GivenRows
from reft_interp.interventions.values import Constant
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training.reft_method import ReFT

pytestmark = pytest.mark.no_cover

# float32: two implementations of attention differ by 1e-6 and less.
CLOSE = {"atol": 1e-5, "rtol": 0}
POST = Site("resid_post", 0)


def imported(folder: Path) -> ModuleType:
    """The module that was written into a folder."""
    spec = importlib.util.spec_from_file_location("edits", folder / "edits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs_for(parts: tuple[Any, Any], prompts: list[str], side: str = "right") -> dict[str, Any]:
    """Padded token ids and their mask; positions are counted without the padding."""
    encoded = parts[1](prompts, return_tensors="pt", padding=True, padding_side=side)
    mask = encoded["attention_mask"]
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1) * mask,
    }


def assert_same(edited: Any, plain: Any, mask: Any, expected: Any) -> None:
    """Of each row the tokens, wherever its padding is; and the edit did something."""
    for row, real in enumerate(mask.bool()):
        assert_close(edited[row, real], expected[row, : real.sum()], **CLOSE)
    assert (edited - plain).abs().max() > 0.05


def check(tmp_path, parts, intervened, sides=("left", "right")):
    export_to_transformers(intervened, tmp_path)
    expected = intervened.logits(PROMPTS)
    model = parts[0]
    for side in sides:
        inputs = inputs_for(parts, PROMPTS, side)
        with torch.no_grad():
            plain = model(**inputs).logits
            with imported(tmp_path).attach(model):
                edited = model(**inputs).logits
            assert torch.equal(model(**inputs).logits, plain)  # they came off
        assert_same(edited, plain, inputs["attention_mask"], expected)


def test_a_model_that_sees_images_too_takes_the_edits_of_its_text(tmp_path):
    made = wrap_model(*tiny_that_sees("Gemma3ForConditionalGeneration"), name="tiny")
    intervened = IntervenedModel(made, Placement(trained()["LoReFT"], POST, "f1+l2"))
    check(tmp_path, tiny_that_sees("Gemma3ForConditionalGeneration"), intervened, sides=["right"])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_example_in_the_written_module_runs_as_it_stands(
    tmp_path, tiny, tiny_parts, architecture
):
    """Also where positions are learned: what gpt2 counts by itself includes the padding."""
    intervened = IntervenedModel(tiny(architecture), Placement(trained()["LoReFT"], POST, "l1"))
    export_to_transformers(intervened, tmp_path)
    edits = imported(tmp_path)
    model, tokenizer = deepcopy(tiny_parts(architecture))
    tokenizer.padding_side = "left"
    example = str(edits.__doc__).split('padding_side="left")\n')[1].split("\n\n")[0]
    example = textwrap.dedent(example).replace("generate(**inputs)", "generate(**inputs, **short)")
    short = {"max_new_tokens": 3, "do_sample": False}
    found = {"edits": edits, "model": model, "tokenizer": tokenizer, "prompts": PROMPTS}
    exec(example, {"short": short}, found)
    real = found["inputs"]["attention_mask"].bool()
    for row, expected in enumerate(intervened.logits(PROMPTS)):
        assert_close(found["logits"][row][real[row]], expected[: real[row].sum()], **CLOSE)
    new = tokenizer.batch_decode(found["tokens"][:, real.shape[1] :], skip_special_tokens=True)
    assert new == intervened.generate(PROMPTS, **short)
    if architecture == "gpt2":  # the untouched model itself is off without them
        plain, placed = (
            model(**found["inputs"]),
            model(**inputs_for((model, tokenizer), PROMPTS, "left")),
        )
        assert (plain.logits - placed.logits)[real].abs().max() > 0.05


@pytest.mark.parametrize("name", SOURCELESS)
def test_each_intervention_gives_the_same_logits(tmp_path, tiny, tiny_parts, name):
    placements = [Placement(trained()[name], site, "f2+l1") for site in (POST, Site("mlp_out", 1))]
    check(tmp_path, tiny_parts("llama"), IntervenedModel(tiny("llama"), placements))


@pytest.mark.parametrize(
    "component", ["resid_pre", "resid_post", "attn_out", "mlp_out", "z", "mlp_post"]
)
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "qwen2", "gemma2"])
def test_each_site_of_each_architecture(tmp_path, tiny, tiny_parts, architecture, component):
    model, site = tiny(architecture), Site(component, 1)
    edit = trained(site.width(model))["LoReFT gelu"]
    intervened = IntervenedModel(model, Placement(edit, site, "every"))
    check(tmp_path, tiny_parts(architecture), intervened)


@pytest.mark.parametrize(
    "component", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post"]
)
def test_opt_whose_mlp_sees_no_rows(tmp_path, tiny_parts, component):
    """Tokens of all rows stand one after the other there."""
    _, tokenizer = tiny_parts("llama")
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        init_std=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.architectures = ["OPTForCausalLM"]
    torch.manual_seed(0)
    plain = OPTForCausalLM(config).eval()
    model, site = wrap_model(deepcopy(plain), tokenizer, name="tiny-opt"), Site(component, 1)
    edit = trained(site.width(model))["LoReFT gelu"]
    check(tmp_path, (plain, tokenizer), IntervenedModel(model, Placement(edit, site, "f1+l2")))


def test_an_encoder(tmp_path, tiny, tiny_parts):
    intervened = IntervenedModel(tiny("bert"), Placement(trained()["LoReFT"], POST, "last"))
    check(tmp_path, tiny_parts("bert"), intervened, sides=["right"])


@pytest.mark.parametrize(
    "site", [Site("z", 1, heads=[3, 1]), Site("mlp_post", 0, neurons=[9, 2, 40])]
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_chosen_heads_and_neurons(tmp_path, tiny, tiny_parts, architecture, site):
    model = tiny(architecture)
    edit = trained(site.width(model))["VectorAddition"]
    check(
        tmp_path,
        tiny_parts(architecture),
        IntervenedModel(model, Placement(edit, site, "every")),
    )


@pytest.mark.parametrize(
    "on", ["f3+l3", "f1", "l4", "last", "every", "indices:0,-1", "f3+l3 rounding=pyreft"]
)
def test_each_kind_of_positions(tmp_path, tiny, tiny_parts, on):
    edit = trained()["ConsReFT"]
    intervened = IntervenedModel(tiny("gpt2"), Placement(edit, POST, on))
    check(tmp_path, tiny_parts("gpt2"), intervened)


@pytest.mark.parametrize(("n", "tokens"), [(3, [0, 1]), (6, [0, 3, 4]), (9, [0, 6, 7])])
def test_the_last_token_may_be_left_out_before_the_others_are_counted(n, tokens):
    positions = {"first": 1, "last": 2, "rounding": "pyreft-but-last"}
    assert _pick(positions, n, row=0) == tokens


def test_two_ends_of_short_prompts(tmp_path, tiny, tiny_parts):
    model = tiny("gpt2")
    placements = ReFT(trained()["ConsReFT"], (0,), "f3+l3", tied=False).placements(model)
    assert {1, 2} & {len(model.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}
    check(tmp_path, tiny_parts("gpt2"), IntervenedModel(model, placements))


def test_edits_at_one_place_keep_their_order_and_may_share_an_intervention(
    tmp_path, tiny, tiny_parts
):
    made = trained()
    placements = [
        Placement(made["Clamp"], POST, "every"),
        Placement(made["LobiReFT"], POST, "last"),
        Placement(made["Clamp"], Site("resid_pre", 0), "first"),
    ]
    check(tmp_path, tiny_parts("llama"), IntervenedModel(tiny("llama"), placements))


@pytest.mark.parametrize("when", ["prompt", "every token"])
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_generation_is_the_same(tmp_path, tiny, tiny_parts, architecture, options, when):
    made, model = trained(), tiny(architecture)
    placements = [Placement(made["LoReFT"], POST, "f1+l1"), Placement(made["Clamp"], POST, "l2")]
    intervened = IntervenedModel(model, placements)
    expected = intervened.generate(PROMPTS, when=when, max_new_tokens=8, **options)
    export_to_transformers(intervened, tmp_path)
    plain, tokenizer = tiny_parts(architecture)
    inputs = inputs_for((plain, tokenizer), PROMPTS, "left")
    del inputs["position_ids"]  # generate counts them itself
    settings = {"max_new_tokens": 8, "do_sample": False, **options}
    untouched = plain.generate(**inputs, **settings)
    with imported(tmp_path).attach(plain, when=when):
        tokens = plain.generate(**inputs, **settings)
    width = inputs["input_ids"].shape[1]
    assert tokenizer.batch_decode(tokens[:, width:], skip_special_tokens=True) == expected
    assert not torch.equal(tokens, untouched)
    assert torch.equal(plain.generate(**inputs, **settings), untouched)


@pytest.mark.parametrize("when", ["prompt", "every token"])
@pytest.mark.parametrize(
    "options",
    [
        {"prefill_chunk_size": 2},
        {"prefill_chunk_size": 3, "num_beams": 2},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "prefill_chunk_size": 3},
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_other_caches_change_nothing(tmp_path, tiny, tiny_parts, architecture, options, when):
    """Calls of the model in which prompts come in parts, or with masks that hide the padding."""
    edit = trained()["LoReFT"]
    intervened = IntervenedModel(tiny(architecture), Placement(edit, POST, "f2+l1"))
    beams = {"num_beams": options.get("num_beams", 1)}
    expected = intervened.generate(PROMPTS, when=when, max_new_tokens=5, **beams)
    export_to_transformers(intervened, tmp_path)
    plain, tokenizer = tiny_parts(architecture)
    inputs = inputs_for((plain, tokenizer), PROMPTS, "left")
    del inputs["position_ids"]
    with imported(tmp_path).attach(plain, when=when):
        tokens = plain.generate(**inputs, max_new_tokens=5, do_sample=False, **options)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    assert tokenizer.batch_decode(new, skip_special_tokens=True) == expected


@pytest.mark.parametrize("when", ["prompt", "every token"])
def test_candidates_from_the_prompt_change_nothing(tmp_path, tiny, tiny_parts, when):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()["LoReFT"], POST, "f1+l2"))
    export_to_transformers(intervened, tmp_path)
    model, tokenizer = tiny_parts("llama")
    ids = tokenizer("a b a b a b a b", return_tensors="pt").input_ids
    settings = {"max_new_tokens": 12, "do_sample": False}
    with imported(tmp_path).attach(model, when=when):
        expected = model.generate(ids, use_cache=False, **settings)
        assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **settings), expected)


@pytest.mark.parametrize(("on", "when"), [("f2", "prompt"), ("every", "every token")])
def test_a_second_turn_from_the_cache_of_the_first(tmp_path, tiny, tiny_parts, on, when):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()["LoReFT"], POST, on))
    export_to_transformers(intervened, tmp_path)
    model, tokenizer = tiny_parts("llama")
    settings = {"max_new_tokens": 5, "do_sample": False, "output_logits": True}
    settings["return_dict_in_generate"] = True
    edits = imported(tmp_path)
    with edits.attach(model, when=when):
        inputs = inputs_for((model, tokenizer), ["The key to the", "a"], "left")
        del inputs["position_ids"]
        first = model.generate(**inputs, **settings)
    more = tokenizer(" doors", return_tensors="pt").input_ids.expand(2, -1)
    longer = torch.cat([first.sequences, more], dim=1)
    mask = torch.nn.functional.pad(
        inputs["attention_mask"], (0, longer.shape[1] - inputs["input_ids"].shape[1]), value=1
    )
    given = {"input_ids": longer, "attention_mask": mask, **settings}
    with edits.attach(model, when=when):
        whole = model.generate(**given)
        copied = model.generate(**given, past_key_values=deepcopy(first.past_key_values))
        in_parts = model.generate(
            **given, past_key_values=deepcopy(first.past_key_values), prefill_chunk_size=2
        )
        new = given | {"input_ids": longer[:, first.past_key_values.get_seq_length() :]}
        only_new = model.generate(**new, past_key_values=first.past_key_values)
    for found in (copied, in_parts, only_new):
        assert_close(torch.stack(found.logits), torch.stack(whole.logits), **CLOSE)
    bare = model.generate(**given)
    assert (torch.stack(bare.logits) - torch.stack(whole.logits)).abs().max() > 0.01


def test_sets_of_edits_on_one_model_come_off_in_any_order(tmp_path, tiny, tiny_parts):
    for name, strength in (("one", 2.0), ("two", -3.0)):
        edit = VectorAddition(torch.randn(32), strength=strength)
        placed = IntervenedModel(tiny("llama"), Placement(edit, POST, "l2"))
        export_to_transformers(placed, tmp_path / name)
    modules = [imported(tmp_path / name) for name in ("one", "two")]
    model, tokenizer = tiny_parts("llama")
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")

    def scores():
        found = model.generate(
            **inputs,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            use_cache=False,  # each call reads everything: only generate knows what the prompt is
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.stack(found.logits)

    alone = []
    for module, name in zip(modules, ("one", "two"), strict=True):
        with module.attach(model, tmp_path / name, when="every token"):
            alone.append(scores())
    bare = scores()
    for goes_first in (0, 1):
        attached = [
            module.attach(model, tmp_path / name, when="every token")
            for module, name in zip(modules, ("one", "two"), strict=True)
        ]
        both = scores()
        attached[goes_first].remove()
        assert torch.equal(scores(), alone[1 - goes_first])
        attached[1 - goes_first].remove()
        attached[goes_first].remove()  # once more does nothing
        assert torch.equal(scores(), bare)
        assert "generate" not in model.__dict__
        assert not torch.equal(both, alone[0]) and not torch.equal(both, alone[1])


def test_a_generate_of_the_users_own_is_there_again_afterwards(tmp_path, tiny, tiny_parts):
    placed = IntervenedModel(tiny("llama"), Placement(trained()["LoReFT"], POST, "last"))
    export_to_transformers(placed, tmp_path)
    model, _ = tiny_parts("llama")
    model.generate = own = lambda *given, **options: "mine"
    with imported(tmp_path).attach(model):
        assert model.generate(torch.ones(1, 2)) == "mine"
    assert model.generate is own
    del model.generate


def test_going_on_from_a_cache_by_hand_is_as_one_call(tmp_path, tiny, tiny_parts):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()["LoReFT"], POST, "last"))
    export_to_transformers(intervened, tmp_path)
    model, tokenizer = tiny_parts("llama")
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    prompt = ids.shape[1] - 2
    with torch.no_grad(), imported(tmp_path).attach(model) as attached:
        first = model(ids[:, :prompt], use_cache=True)
        second = model(ids[:, prompt:], past_key_values=first.past_key_values)
        parts = torch.cat([first.logits, second.logits], dim=1)
        attached.prompt_lengths = [prompt]
        whole = model(ids).logits
        attached.prompt_lengths = None
        moved = model(ids).logits  # the last token is another one now
    assert_close(parts, whole, **CLOSE)
    assert (whole - moved).abs().max() > 0.05


def test_answers_behind_the_prompts_are_left_alone(tmp_path, tiny, tiny_parts):
    intervened = IntervenedModel(tiny("gpt2"), Placement(trained()["LoReFT"], POST, "last"))
    export_to_transformers(intervened, tmp_path)
    model, tokenizer = tiny_parts("gpt2")
    rows = [{"prompt": prompt, "answer": " keys"} for prompt in PROMPTS]
    lengths = [len(tokenizer(prompt).input_ids) for prompt in PROMPTS]
    answer = tokenizer(" keys").input_ids
    losses = []
    with torch.no_grad(), imported(tmp_path).attach(model) as attached:
        for prompt, length in zip(PROMPTS, lengths, strict=True):
            attached.prompt_lengths = [length]
            ids = torch.tensor([[*tokenizer(prompt).input_ids, *answer]])
            logits = model(ids).logits[0, length - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))
    assert_close(torch.stack(losses).mean(), intervened.loss(rows), **CLOSE)


def test_a_half_precision_model_is_edited_in_the_precision_of_the_edit(tmp_path, tiny, tiny_parts):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()["LoReFT"], POST, "every"))
    export_to_transformers(intervened, tmp_path)
    edits = imported(tmp_path)
    settings = json.loads((tmp_path / "edits.json").read_text())["edits"][0]
    tensors = load_file(tmp_path / "edits.safetensors")
    edit = edits.Edit(settings, {name.removeprefix("0."): t for name, t in tensors.items()})
    h = torch.randn(4, 32).bfloat16()
    assert torch.equal(edit(h), intervened.placements[0].intervention(h))


_ALONE = """
import importlib.abc, json, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("reft_interp", "transformer_lens", "pyvene", "pyreft"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
try:
    import reft_interp
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("reft_interp can be imported")
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    import edits
    model = AutoModelForCausalLM.from_pretrained(folder + "/model", dtype=torch.float32).eval()
    inputs = load_file(folder + "/inputs.safetensors")
    with torch.no_grad(), edits.attach(model):
        save_file({"logits": model(**inputs).logits}, folder + "/logits.safetensors")
    assert edits.__file__.startswith(folder)
    del sys.modules["edits"], sys.path[0]
assert not {"reft_interp", "transformer_lens"} & set(sys.modules)
"""


def test_a_process_without_this_package_gives_the_same_logits(tmp_path, tiny, tiny_parts):
    expected, folders = {}, []
    for architecture in ("gpt2", "gpt_neox", "llama", "qwen2", "gemma2"):
        folder = tmp_path / architecture
        model = tiny(architecture)
        placements = [
            Placement(edit, Site("resid_post", i % 2), "f2+l2")
            for i, edit in enumerate(trained().values())
        ]
        intervened = IntervenedModel(model, placements)
        export_to_transformers(intervened, folder)
        parts = tiny_parts(architecture)
        parts[0].save_pretrained(folder / "model")
        inputs = inputs_for(parts, PROMPTS)
        save_file(inputs, folder / "inputs.safetensors")
        expected[folder] = intervened.logits(PROMPTS), inputs["attention_mask"]
        folders.append(str(folder))
    subprocess.run([sys.executable, "-c", _ALONE, *folders], check=True, cwd=tmp_path, timeout=120)
    for folder, (logits, mask) in expected.items():
        found = load_file(folder / "logits.safetensors")["logits"]
        for row, real in enumerate(mask.bool()):
            assert_close(found[row, real], logits[row, real], **CLOSE)


# What is refused


@pytest.mark.parametrize(
    "on", ["subject", 'substring:"key"', "last of=answer", "every of=answer", "span:subject all"]
)
def test_positions_that_need_text_are_refused_before_anything_is_written(tmp_path, tiny, on):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()["LoReFT"], POST, on))
    with pytest.raises(ValueError, match=r"positions .* cannot be exported.*'f3\+l3'"):
        export_to_transformers(intervened, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    "edit", [Interchange(), DistributedInterchange(Subspace.random(32, RANK, seed=0))]
)
def test_an_intervention_that_reads_a_source_is_refused(tmp_path, tiny, edit):
    with pytest.raises(ValueError, match=r"it reads a source.*Clamp"):
        export_to_transformers(
            IntervenedModel(tiny("llama"), Placement(edit, POST, "last")), tmp_path
        )


def test_an_intervention_of_the_users_own_is_refused(tmp_path, tiny):
    class Mine(Add):
        pass

    edit = Mine(GivenRows(torch.ones(1, 32)), Constant(torch.ones(1)), {})
    with pytest.raises(ValueError, match=r"Mine cannot run .* formula is not known"):
        export_to_transformers(
            IntervenedModel(tiny("llama"), Placement(edit, POST, "last")), tmp_path
        )


def test_another_model_is_refused(tmp_path, tiny, tiny_parts):
    intervened = IntervenedModel(tiny("llama"), Placement(LoReFT(RANK), POST, "indices:0,9"))
    export_to_transformers(intervened, tmp_path)
    edits = imported(tmp_path)
    with pytest.raises(ValueError, match=r"architecture LlamaForCausalLM.*GPT2LMHeadModel"):
        edits.attach(tiny_parts("gpt2")[0])
    with pytest.raises(ValueError, match=r"d_model 32\), but .* d_model 16"):
        edits.attach(tiny_parts("llama", hidden_size=16)[0])
    with pytest.raises(ValueError, match=r"n_layers 2\), but .* n_layers 3"):
        edits.attach(tiny_parts("llama", num_hidden_layers=3)[0])
    model, tokenizer = tiny_parts("llama")
    with pytest.raises(ValueError, match="when must be"):
        edits.attach(model, when="always")
    short = tokenizer("Yes,", return_tensors="pt").input_ids
    with edits.attach(model), pytest.raises(ValueError, match=r"row 0 has . prompt tokens"):
        model(short)


def test_a_cache_that_was_filled_without_the_edits_is_refused(tmp_path, tiny, tiny_parts):
    export_to_transformers(
        IntervenedModel(tiny("llama"), Placement(LoReFT(RANK), POST, "first")), tmp_path
    )
    model, tokenizer = tiny_parts("llama")
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    cache = model(ids[:, :3], use_cache=True).past_key_values
    with imported(tmp_path).attach(model), pytest.raises(ValueError, match="3 were read without"):
        model(ids[:, 3:], past_key_values=cache)


@pytest.mark.parametrize(("on", "when"), [("f1+l1", "prompt"), ("every", "prompt")])
def test_a_second_turn_that_selects_other_tokens_is_refused(tmp_path, tiny, tiny_parts, on, when):
    edit = trained()["LoReFT"]
    export_to_transformers(IntervenedModel(tiny("llama"), Placement(edit, POST, on)), tmp_path)
    model, tokenizer = tiny_parts("llama")
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    bare = model.generate(ids, **settings)
    with imported(tmp_path).attach(model, when=when):
        first = model.generate(ids, **settings)
        longer = torch.cat([first.sequences, ids], dim=1)
        with pytest.raises(ValueError, match=r"earlier prompt .* without past_key_values"):
            model.generate(longer, past_key_values=first.past_key_values, **settings)
        with pytest.raises(ValueError, match=r"were read without these edits"):
            model.generate(longer, past_key_values=bare.past_key_values, **settings)


@pytest.mark.parametrize("options", [{"prefill_chunk_size": 2}, {"cache_implementation": "static"}])
def test_parts_of_padded_prompts_without_a_mask_are_refused(tmp_path, tiny, tiny_parts, options):
    export_to_transformers(
        IntervenedModel(tiny("llama"), Placement(LoReFT(RANK), POST, "last")), tmp_path
    )
    model, _ = tiny_parts("llama")
    ids = torch.tensor([[7, 7, 7, 8, 9], [10, 11, 12, 13, 14]])
    with (
        imported(tmp_path).attach(model),
        pytest.raises(ValueError, match=r"generate needs attention_mask"),
    ):
        model.generate(ids, pad_token_id=7, max_new_tokens=3, do_sample=False, **options)


def test_a_mask_that_does_not_show_the_padding_is_refused(tmp_path, tiny, tiny_parts):
    export_to_transformers(
        IntervenedModel(tiny("llama"), Placement(LoReFT(RANK), POST, "first")), tmp_path
    )
    model, tokenizer = tiny_parts("llama")
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    mask = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
    with imported(tmp_path).attach(model), pytest.raises(ValueError, match=r"\[batch, pos\]"):
        model(ids, attention_mask=mask)


def test_a_folder_of_another_format_is_refused(tmp_path, tiny, tiny_parts):
    export_to_transformers(
        IntervenedModel(tiny("llama"), Placement(LoReFT(RANK), POST, "first")), tmp_path
    )
    config = json.loads((tmp_path / "edits.json").read_text())
    (tmp_path / "edits.json").write_text(json.dumps(config | {"format": 9}))
    with pytest.raises(ValueError, match="has format 9; this file reads 2"):
        imported(tmp_path).attach(tiny_parts("llama")[0])


def test_two_snapshots_in_one_process_keep_their_own_edits(tmp_path, tiny, tiny_parts):
    tokens = torch.arange(4, 10)[None]
    for name, strength in (("one", 1.0), ("two", -3.0)):
        steering = VectorAddition(torch.ones(32), strength=strength)
        placed = IntervenedModel(tiny("llama"), Placement(steering, Site("resid_post", 0), "every"))
        export_to_transformers(placed, tmp_path / name)
    found = []
    for name in ("one", "two"):
        folder = str(tmp_path / name)
        # As the generated model card has it.
        edits = runpy.run_path(f"{folder}/edits.py")
        model, _ = tiny_parts("llama")
        with torch.no_grad(), edits["attach"](model, folder):
            found.append(model(tokens).logits)
    for logits, strength in zip(found, (1.0, -3.0), strict=True):
        model, _ = tiny_parts("llama")
        hook = model.model.layers[0].register_forward_hook(
            lambda module, given, output, by=strength: output + by
        )
        with torch.no_grad():
            assert_close(logits, model(tokens).logits)
        hook.remove()


def test_a_disk_that_is_full_leaves_all_of_what_was_there(tiny, tmp_path, monkeypatch):
    one, other = (
        IntervenedModel(tiny("llama"), Placement(trained()[name], Site("resid_post", 1), "f1"))
        for name in ("LoReFT", "VectorAddition")
    )
    export_to_transformers(one, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full():
        raise OSError("no space left on device")

    monkeypatch.setattr("reft_interp.interop.export._source", full)
    with pytest.raises(OSError, match="no space left"):
        export_to_transformers(other, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
