"""Continuations against a greedy loop without a cache, which is written here."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interventions import Interchange, VectorAddition
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site

pytestmark = pytest.mark.no_cover

PROMPTS = ["The key near the doors", "Paris", "Is twelve more than three? Yes", "Q"]
VECTOR = torch.linspace(-3, 3, 32)
NEW = 6


def placed_on(model: TransformerBridge, on: Any = "f1+l1") -> IntervenedModel:
    return IntervenedModel(
        model,
        [
            Placement(VectorAddition(VECTOR), Site("resid_post", 0), on),
            Placement(VectorAddition(VECTOR.flip(0)), Site("mlp_out", 1), on),
        ],
    )


def greedy(
    model: TransformerBridge,
    prompt: str,
    tokens: Sequence[int],
    *,
    every_token: bool = False,
    edited: bool = True,
) -> str:
    """Greedy continuation: the whole text runs again for each token.

    Args:
        tokens: which tokens of the prompt are edited.
        every_token: whether new tokens are, too.
    """
    ids = list(model.tokenizer(prompt)["input_ids"])
    n = len(ids)
    columns = sorted({token % n for token in tokens})

    def add(vector: Tensor):
        def hook(activation: Tensor, hook: Any) -> Tensor:
            new = activation.clone()
            for column in [*columns, *(range(n, new.shape[1]) if every_token else ())]:
                new[0, column] += vector
            return new

        return hook

    hooks: list[Any] = [
        ("blocks.0.hook_resid_post", add(VECTOR)),
        ("blocks.1.hook_mlp_out", add(VECTOR.flip(0))),
    ]
    for _ in range(NEW):
        with torch.no_grad():
            logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks if edited else [])
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(ids[n:], skip_special_tokens=True)


@pytest.mark.parametrize("when", ["prompt", "every token"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_continues_as_the_loop_does(causal_model, when, use_cache):
    said = placed_on(causal_model).generate(
        PROMPTS, when=when, max_new_tokens=NEW, use_cache=use_cache
    )
    expected = [
        greedy(causal_model, prompt, [0, -1], every_token=when == "every token")
        for prompt in PROMPTS
    ]
    assert said == expected
    assert said != [greedy(causal_model, prompt, [], edited=False) for prompt in PROMPTS]


def test_the_two_times_differ(causal_model):
    intervened = placed_on(causal_model)
    once = intervened.generate(PROMPTS, max_new_tokens=NEW)
    assert once != intervened.generate(PROMPTS, when="every token", max_new_tokens=NEW)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("when", ["prompt", "every token"])
def test_a_list_gives_what_one_by_one_gives(causal_model, when, use_cache):
    intervened = placed_on(causal_model)
    options = {"when": when, "max_new_tokens": NEW, "use_cache": use_cache}
    together = intervened.generate(PROMPTS, **options)
    assert together == [intervened.generate([prompt], **options)[0] for prompt in PROMPTS]
    assert len(set(together)) > 1


@pytest.mark.parametrize("when", ["prompt", "every token"])
def test_samples_are_the_same_with_the_same_seed(tiny, when):
    intervened = placed_on(tiny("llama"))

    def sampled(seed: int) -> list[str]:
        torch.manual_seed(seed)
        return intervened.generate(
            PROMPTS, when=when, max_new_tokens=NEW, do_sample=True, num_return_sequences=2
        )

    assert sampled(0) == sampled(0) != sampled(1)
    assert len(sampled(0)) == 2 * len(PROMPTS)


@pytest.mark.parametrize("when", ["prompt", "every token"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_several_continuations_of_a_prompt_are_each_edited(causal_model, when, use_cache):
    """Sampled from the one most probable token, each is the greedy continuation."""
    said = placed_on(causal_model).generate(
        PROMPTS,
        when=when,
        max_new_tokens=NEW,
        use_cache=use_cache,
        do_sample=True,
        top_k=1,
        num_return_sequences=2,
    )
    for i, prompt in enumerate(PROMPTS):
        expected = greedy(causal_model, prompt, [0, -1], every_token=when == "every token")
        assert said[2 * i : 2 * i + 2] == [expected, expected]


def test_several_continuations_each_read_their_own_source(tiny):
    model = tiny("llama")
    sources = ["The films were good", "No", "John gave a drink to", "A"]
    intervened = IntervenedModel(model, Placement(Interchange(), Site("resid_post", 1), "last"))
    alone = intervened.generate(PROMPTS, sources, max_new_tokens=1)
    twice = intervened.generate(
        PROMPTS,
        sources,
        max_new_tokens=1,
        do_sample=True,
        top_k=1,
        num_return_sequences=2,
    )
    assert twice == [text for text in alone for _ in range(2)]
    # The first new token is then the one that the source goes on with.
    for source, text in zip(sources, alone, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([model.tokenizer(source)["input_ids"]]))
        assert text == model.tokenizer.decode([int(logits[0, -1].argmax())])


def test_beams_that_change_places_keep_their_edits(tiny):
    model = tiny("gpt2")
    intervened = placed_on(model)
    together = intervened.generate(PROMPTS, max_new_tokens=NEW, num_beams=3)
    assert together == [
        intervened.generate([prompt], max_new_tokens=NEW, num_beams=3, use_cache=False)[0]
        for prompt in PROMPTS
    ]


@pytest.mark.parametrize("when", ["prompt", "every token"])
@pytest.mark.parametrize("prompt", ["Q", "The", "When Mary and John went to the store, John gave"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_candidates_looked_up_in_the_text_are_new_tokens(tiny, architecture, prompt, when):
    """Several pass at once, more than a short prompt has."""
    model = tiny(architecture)
    passes: list[int] = []

    def count(stream, hook):
        passes.append(stream.shape[1])

    with model.hooks(fwd_hooks=[("blocks.0.hook_in", count)]):
        said = placed_on(model).generate(
            [prompt], when=when, max_new_tokens=24, prompt_lookup_num_tokens=6
        )
    assert any(columns > 1 for columns in passes[1:])
    assert said == placed_on(model).generate(
        [prompt], when=when, max_new_tokens=24, use_cache=False
    )


@pytest.mark.parametrize("when", ["prompt", "every token"])
@pytest.mark.parametrize("on", ["f1+l1", "every", "l3"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_prompts_may_be_read_in_parts(causal_model, chunk, on, when):
    intervened = placed_on(causal_model, on)
    prompts, options = [PROMPTS[0], PROMPTS[2]], {"when": when, "max_new_tokens": NEW}
    in_parts = intervened.generate(prompts, prefill_chunk_size=chunk, **options)
    assert in_parts == intervened.generate(prompts, **options)


def test_sources_are_read_in_parts_too(tiny):
    placed = Placement(Interchange(), Site("resid_post", 1), "f2+l2")
    intervened = IntervenedModel(tiny("llama"), placed)
    prompts, sources = [PROMPTS[0], PROMPTS[2]], [PROMPTS[2], PROMPTS[0]]
    whole = intervened.generate(prompts, sources, max_new_tokens=NEW)
    assert whole == intervened.generate(prompts, sources, max_new_tokens=NEW, prefill_chunk_size=4)


def test_new_tokens_have_no_source(tiny):
    intervened = IntervenedModel(
        tiny("gpt2"), Placement(Interchange(), Site("resid_post", 0), "last")
    )
    with pytest.raises(ValueError, match="new tokens have none"):
        intervened.generate(["The key"], ["The keys"], when="every token")


@pytest.mark.usefixtures("no_type_checks")
def test_says_what_when_can_be(tiny):
    with pytest.raises(ValueError, match='"prompt" or "every token", got \'always\''):
        placed_on(tiny("gpt2")).generate(PROMPTS, when="always")  # pyright: ignore[reportArgumentType]


def test_encoders_do_not_continue_prompts(tiny):
    with pytest.raises(ValueError, match="tiny-bert is no decoder"):
        placed_on(tiny("bert")).generate(PROMPTS)


def test_a_prompt_and_its_new_tokens_end_where_learned_positions_do(tiny):
    model = tiny("gpt2")
    length = len(model.tokenizer(PROMPTS[0])["input_ids"])
    most = 128 - length + 1  # the last new token is not read
    (text,) = placed_on(model).generate([PROMPTS[0]], max_new_tokens=most, min_new_tokens=most)
    assert text
    told = f"at most {most} after a prompt of {length} tokens, as tiny-gpt2 has 128 learned posi"
    with pytest.raises(ValueError, match=told):
        placed_on(model).generate([PROMPTS[0], "Q"], max_new_tokens=most + 1)
    with pytest.raises(IndexError):  # transformers itself
        ids = model.tokenizer(PROMPTS[0], return_tensors="pt")
        model.original_model.generate(**ids, max_new_tokens=most + 1, min_new_tokens=most + 1)
