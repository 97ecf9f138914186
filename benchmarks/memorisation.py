"""How much text one rank-1 LoReFT of one token can hold: random words, learned until greedy
decoding of SmolLM2 gives them all, for several lengths.

A study of the kind that pyreft calls memorisation: one layer, the last token of a fixed prompt,
one direction. Text is words of one token each, drawn uniformly from the vocabulary, so that nothing
but the edit can know them; lengths are in tokens. What counts is how many tokens are right from the
first on, which is what greedy decoding gives before its first mistake, with the best of all checks
kept; a text that is held whole is generated once for proof. The untouched model is beside it. Of
one prompt h is one vector, so what is measured is what the vector of one token can hold at that
layer: any edit of rank 1 that trains as well could do the same. The last line of standard output is
one JSON object.

    python benchmarks/memorisation.py --lengths 8 16 32 --steps 300 --seeds 2
"""

import argparse
import json
import logging
import random
import sys

import torch
from sides import Steps, seconds

from reft_interp import LoReFT, Placement, Site, load_model
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.running import answer_positions

PROMPT = "Text number one:"
CHECKED = 10  # steps between two checks


def random_words(tokenizer, tokens: int, seed: int) -> str:
    """Words of one token each, all different, in random order."""
    pieces = (tokenizer.decode([i]) for i in range(len(tokenizer)))
    words = [
        p for p in pieces if len(p) > 3 and p[0] == " " and p[1:].isascii() and p[1:].islower()
    ]
    text = "".join(random.Random(seed).sample([w for w in words if w[1:].isalpha()], tokens))
    found = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    if found != tokens:
        raise ValueError(f"{text!r} has {found} tokens, not {tokens}")
    return text


def leading(steps: Steps) -> int:
    """How many tokens of the text are right before the first that is wrong."""
    inputs = steps.prepared.inputs([0])
    batch = inputs["batch"]
    at = answer_positions(steps.intervened.model, batch)
    with torch.no_grad():
        (logits,) = joint_logits([Share(steps.intervened, inputs, at)])
    right = logits.argmax(-1) == batch.labels[batch.labels != -100]
    return int(right.long().cumprod(0).sum())


def hold(model, text: str, tokens: int, seed: int, asked: argparse.Namespace) -> dict:
    """Train an edit to hold a text, until it does or there are no steps left."""
    torch.manual_seed(seed)
    place = Placement(LoReFT(1), Site("resid_post", asked.layer), "last")
    row = {"prompt": PROMPT, "answer": text}
    steps = Steps(model, [place], [row], learning_rate=asked.learning_rate)
    untouched, best, done = leading(steps), 0, 0

    def train() -> None:
        nonlocal best, done
        while done < asked.steps and best < tokens:
            for _ in range(CHECKED):
                steps.step()
            done += CHECKED
            best = max(best, leading(steps))

    spent = seconds(train)
    found = {
        "tokens": tokens,
        "seed": seed,
        "held": best,
        "untouched": untouched,
        "steps": done,
        "seconds": round(spent, 1),
    }
    if best == tokens:
        (said,) = steps.intervened.generate([PROMPT], max_new_tokens=tokens, min_new_tokens=tokens)
        found["generated"] = said == text
    print(found, file=sys.stderr)
    return found


def main() -> None:
    """Run the study and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    model = load_model("smollm2", device="cpu")
    found = [
        hold(model, random_words(model.tokenizer, tokens, seed), tokens, seed, asked)
        for tokens in asked.lengths
        for seed in range(asked.seeds)
    ]
    print(json.dumps({**vars(asked), "model": "SmolLM2-135M-Instruct Q4_1", "texts": found}))


if __name__ == "__main__":
    main()
