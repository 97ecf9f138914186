import copy

from reft_interp.models import identify, wrap_model


def test_a_model_knows_what_it_is(tiny_parts):
    hf_model, tokenizer = tiny_parts("qwen2")
    model = wrap_model(hf_model, tokenizer, name="org/tiny", revision="abc123")
    identity = identify(model)
    assert (identity.name, identity.revision) == ("org/tiny", "abc123")
    assert (identity.architecture, identity.n_layers, identity.d_model) == (
        "Qwen2ForCausalLM",
        2,
        32,
    )
    assert identity.dtype == "float32"
    assert str(identity) == ("org/tiny at abc123 (Qwen2ForCausalLM, 2 layers, d_model 32, float32)")
    assert identify(copy.deepcopy(model)) == identity


def test_a_model_without_a_revision_says_none(tiny):
    identity = identify(tiny("gpt2"))
    assert identity.revision is None
    assert str(identity).startswith("tiny-gpt2 (GPT2LMHeadModel")
