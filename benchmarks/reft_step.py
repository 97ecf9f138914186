"""One training step of LoReFT on SmolLM2: our engine against pyreft, and against peft's LoRA.

4 rows of 64 tokens, of which 8 are the answer; LoReFT of rank 4 at layers 4, 10, 16 and 22 on
f3+l3, and one at layer 20 on the last prompt token. Sides take turns, medians of five; freezing
is not part of a step. The last line of standard output is one JSON object.

    python benchmarks/reft_step.py
"""

import json
import logging
import tempfile
from pathlib import Path

import peers
import torch
from lora import LoRA
from safetensors.torch import save_file
from sides import Steps, in_turns, rounds_asked, seconds, texts

from reft_interp import LoReFT, Placement, Site, load_model
from reft_interp.encoding import IGNORED
from reft_interp.models.embedded import embedded_folder
from reft_interp.runtime.batching import encode

ROWS, TOKENS, ANSWER, RANK = 4, 64, 8, 4
CASES = {"": ((4, 10, 16, 22), 3, 3), "_late": ((20,), 0, 1)}


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    rounds = rounds_asked(__doc__)
    logging.disable(logging.WARNING)
    model = load_model("smollm2")
    prompts = texts(model.tokenizer, ROWS, TOKENS - ANSWER, seed=0)
    answers = [
        text.removeprefix("The") for text in texts(model.tokenizer, ROWS, ANSWER + 1, seed=1)
    ]
    rows = [{"prompt": p, "answer": a} for p, a in zip(prompts, answers, strict=True)]
    batch = encode(model, rows, answers=True)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.safetensors"
        length = batch.prompt_end - batch.prompt_start
        save_file(
            {"input_ids": batch.input_ids, "labels": batch.labels, "prompt_length": length}, inputs
        )
        worker = peers.Worker(
            "pyreft_steps.py", peers.export(embedded_folder(), Path(folder) / "model"), inputs
        )
        try:
            for name, (layers, first, last) in CASES.items():
                on = f"f{first}+l{last}" if first else f"l{last}"
                places = [
                    Placement(LoReFT(rank=RANK), Site("resid_post", layer), on) for layer in layers
                ]
                ours = Steps(model, places, rows, learning_rate=4e-3)
                sides = {
                    "ours": lambda ours=ours: seconds(ours.step),
                    "pyreft": lambda layers=layers, first=first, last=last: worker.ask(
                        layers=",".join(map(str, layers)), rank=RANK, first=first, last=last
                    )["seconds"],
                }
                if not name:
                    lora = LoRA(model, rank=8, seed=0)
                    optimiser = torch.optim.AdamW(
                        [p for p in lora.parameters() if p.requires_grad], lr=1e-3
                    )

                    def lora_step(lora=lora, optimiser=optimiser) -> None:
                        loss = lora(batch, batch.labels)["loss"]
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()

                    sides["lora"] = lambda: seconds(lora_step)
                times = in_turns(sides, rounds)
                for side, spent in times.items():
                    if side != "ours":
                        found[f"{side}_over_ours{name}"] = spent / times["ours"]
                found[f"ours_seconds{name}"] = times["ours"]
                found[f"freeze_seconds{name}"] = ours.freeze_seconds
        finally:
            worker.close()
    assert int((batch.labels != IGNORED).sum()) == ROWS * ANSWER
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
