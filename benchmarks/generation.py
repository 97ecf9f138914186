"""Generation under a prompt-only LoReFT, against the bridge's and transformers' own `generate`.

64 tokens, greedy, after a prompt of 128 tokens. What is compared is the time of each token after
the prefill: (64 tokens − 1 token) / 63. Sides take turns, medians of five. The last line of
standard output is one JSON object.

    python benchmarks/generation.py
"""

import json
import logging

import torch
from sides import in_turns, rounds_asked, seconds, texts
from transformers import AutoModelForCausalLM

from reft_interp import IntervenedModel, LoReFT, Placement, Site, load_model
from reft_interp.models.embedded import embedded_folder

PROMPT, NEW = 128, 64


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    rounds = rounds_asked(__doc__)
    logging.disable(logging.WARNING)
    model = load_model("smollm2")
    plain = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32).eval()
    (prompt,) = texts(model.tokenizer, 1, PROMPT)
    ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
    places = [
        Placement(LoReFT(rank=4), Site("resid_post", layer), "f3+l3") for layer in (4, 10, 16, 22)
    ]
    reft = IntervenedModel(model, places)

    def ours(count: int, when: str = "prompt") -> None:
        reft.generate([prompt], when=when, max_new_tokens=count, min_new_tokens=count)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def bridge(count: int) -> None:
        model.generate(
            ids, max_new_tokens=count, do_sample=False, stop_at_eos=False, verbose=False,
            return_type="tokens",
        )  # fmt: skip

    def transformers(count: int) -> None:
        plain.generate(  # pyright: ignore[reportAttributeAccessIssue]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip

    def per_token(generate) -> float:
        return (seconds(lambda: generate(NEW)) - seconds(lambda: generate(1))) / (NEW - 1)

    times = in_turns(
        {
            "ours": lambda: per_token(ours),
            "every_token": lambda: per_token(lambda count: ours(count, "every token")),
            "bridge": lambda: per_token(bridge),
            "transformers": lambda: per_token(transformers),
        },
        rounds,
    )
    print(
        json.dumps(
            {
                "ours_over_bridge": round(times["ours"] / times["bridge"], 3),
                "ours_over_transformers": round(times["ours"] / times["transformers"], 3),
                "every_token_over_bridge": round(times["every_token"] / times["bridge"], 3),
                **{f"{name}_seconds": round(spent, 4) for name, spent in times.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
