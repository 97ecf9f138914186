"""Control vectors, read back with the gguf package and added by hand as llama.cpp adds them."""

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from torch.testing import assert_close
from trained import PROMPTS, trained

from reft_interp.interop import save_control_vector
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site


def directions_of(file) -> dict[int, torch.Tensor]:
    reader = GGUFReader(file)
    assert all(t.tensor_type == GGMLQuantizationType.F32 for t in reader.tensors)
    assert all(t.name.startswith("direction.") and len(t.shape) == 1 for t in reader.tensors)
    return {int(t.name.split(".")[1]): torch.tensor(t.data.copy()) for t in reader.tensors}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_adding_the_directions_to_what_the_blocks_give_is_the_same(
    tmp_path, make_tiny, tiny_parts, architecture
):
    layers = {"n_layer": 3} if architecture == "gpt2" else {"num_hidden_layers": 3}
    made = trained()
    placements = [
        Placement(made["LobiReFT"], Site("resid_post", 1), "every"),
        Placement(made["VectorAddition"], Site("resid_pre", 2), "every"),
        Placement(made["sum of shifts"], Site("resid_post", 2), "every"),
    ]
    intervened = IntervenedModel(make_tiny(architecture, **layers), placements)
    file = tmp_path / "deep" / "steer.gguf"
    save_control_vector(intervened, file)
    assert [path.name for path in file.parent.iterdir()] == ["steer.gguf"]
    directions = directions_of(file)
    assert sorted(directions) == [1, 2]  # two of the three are at one place

    model, tokenizer = tiny_parts(architecture, **layers)
    blocks = model.transformer.h if architecture == "gpt2" else model.model.layers

    def add(direction):
        def after(_, args, output):
            shifted = (output[0] if isinstance(output, tuple) else output) + direction
            return (shifted, *output[1:]) if isinstance(output, tuple) else shifted

        return after

    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        plain = model(**inputs).logits
        for layer, direction in directions.items():
            blocks[layer].register_forward_hook(add(direction))
        steered = model(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert_close(steered[real], intervened.logits(PROMPTS)[real], atol=1e-5, rtol=0)  # float32
    assert (steered - plain).abs().max() > 0.05


def test_the_file_says_what_it_is(tmp_path, tiny):
    placement = Placement(trained()["VectorAddition"], Site("resid_post", 1), "every")
    save_control_vector(IntervenedModel(tiny("llama"), placement), tmp_path / "a.gguf")
    reader = GGUFReader(tmp_path / "a.gguf")
    names = ("general.architecture", "controlvector.model_hint", "controlvector.layer_count")
    fields = [reader.get_field(name) for name in names]
    assert [field and field.contents() for field in fields] == ["controlvector", "llama", 1]


@pytest.mark.parametrize(
    ("name", "site", "on", "message"),
    [
        ("LoReFT", Site("resid_post", 1), "every", "what this edit adds depends on h"),
        ("Clamp", Site("resid_post", 1), "every", "what this edit adds depends on h"),
        ("sum of maps", Site("resid_post", 1), "every", "what this edit adds depends on h"),
        ("sum of curves", Site("resid_post", 1), "every", "not affine in h"),
        ("LobiReFT", Site("resid_post", 0), "every", "the first block excepted"),
        ("LobiReFT", Site("resid_pre", 1), "every", "the first block excepted"),
        ("LobiReFT", Site("mlp_out", 1), "every", "what leaves a block"),
        ("LobiReFT", Site("resid_post", 1), "last", "to 'every' token"),
    ],
)
def test_what_llama_cpp_would_not_do_is_refused(tmp_path, tiny, name, site, on, message):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()[name], site, on))
    with pytest.raises(ValueError, match=message):
        save_control_vector(intervened, tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())
