import copy
import math

import pytest
import torch

from reft_interp.models.consistency import (
    Difference,
    cache_difference,
    logit_tolerance,
    padding_difference,
    sample_tokens,
)


@pytest.mark.parametrize(
    ("largest", "ok"), [(0.0, True), (1.0, True), (1.1, False), (math.nan, False)]
)
def test_a_difference_is_fine_up_to_its_tolerance(largest, ok):
    assert Difference(largest, tolerance=1.0).ok is ok


def test_caches_and_padding_agree_with_plain_runs(causal_model):
    cached = cache_difference(causal_model)
    assert cached is not None
    # float32, two layers, logits of size 1: rounding is a few 1e-7.
    assert cached.largest < 5e-6
    assert padding_difference(causal_model, "left").largest < 5e-6
    assert padding_difference(causal_model, "right").largest < 5e-6


def test_an_encoder_has_no_cache_to_compare(tiny):
    assert cache_difference(tiny("bert")) is None


def test_a_cache_that_stays_empty_shows(make_tiny):
    model = make_tiny("llama")
    drop_the_cache(model)
    cached = cache_difference(model)
    assert cached is not None and not cached.ok


def drop_the_cache(model):
    """What transformers 5.24 does to transformer-lens 4.3: another name for the keyword."""

    def rename(module, args, kwargs):
        kwargs["cache"] = kwargs.pop("past_key_values", None)
        return args, kwargs

    for block in model.blocks:
        block.attn.register_forward_pre_hook(rename, with_kwargs=True)


def test_positions_that_ignore_the_mask_show(tiny):
    model = copy.deepcopy(tiny("gpt2"))
    object.__setattr__(model, "_accepts_derived_position_ids", lambda: False)
    assert not padding_difference(model, "left").ok
    assert padding_difference(model, "right").ok


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_given_room_for_rounding(make_tiny, dtype):
    model = make_tiny("llama").to(dtype)
    cached = cache_difference(model)
    assert cached is not None and cached.ok
    logits = model(sample_tokens(model))
    assert logit_tolerance(model, logits) > logit_tolerance(make_tiny("llama"), logits)
