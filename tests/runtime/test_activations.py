"""What the untouched model holds, row by row."""

import pytest
import torch
from torch.testing import assert_close

from reft_interp.positions import every, first_last, parse_positions
from reft_interp.runtime.activations import activations
from reft_interp.sites import Site

PROMPTS = ["The key near the doors", "Paris", "Is twelve more than three?", "A"]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("site", [Site("resid_post", 0), Site("z", 1, heads=(2, 0))])
def test_rows_come_in_the_callers_order(tiny_model, site, batch_size):
    held = activations(tiny_model, PROMPTS, site, every(), batch_size=batch_size)
    ends = activations(tiny_model, PROMPTS, site, first_last(1, 1), batch_size=batch_size)
    for prompt, whole, end in zip(PROMPTS, held, ends, strict=True):
        ids = torch.tensor([tiny_model.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            _, cache = tiny_model.run_with_cache(ids)
        expected = cache[site.hook_name][0]
        if site.heads:
            expected = torch.cat([expected[:, head] for head in site.heads], dim=-1)
        assert_close(whole, expected, atol=1e-4, rtol=1e-4)
        chosen = expected[[0, -1]] if len(expected) > 1 else expected
        assert_close(end, chosen, atol=1e-4, rtol=1e-4)


def test_says_what_is_missing(tiny):
    with pytest.raises(ValueError, match="layer must be between 0 and 1"):
        activations(tiny("gpt2"), PROMPTS, Site("resid_post", 2), every())
    with pytest.raises(ValueError, match="no span 'subject'"):
        activations(tiny("gpt2"), PROMPTS, Site("resid_post", 0), parse_positions("subject"))
