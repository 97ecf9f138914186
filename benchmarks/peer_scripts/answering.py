"""What the peers' scripts that wait for questions share. See `Worker` in `peers.py`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def answer_questions(description: str | None, answer: Callable) -> None:
    """Load the model and the inputs that the command line names, then answer a JSON object a line.

    Args:
        description: of the script.
        answer: is given the model, the inputs and a question.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a transformers model")
    parser.add_argument("inputs", type=Path, help="safetensors file, see the script")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    inputs = load_file(arguments.inputs)
    for line in sys.stdin:
        print(json.dumps(answer(model, inputs, json.loads(line))), flush=True)
