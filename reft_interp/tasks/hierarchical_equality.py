"""Hierarchical equality: are the two pairs alike in being alike? (Geiger et al. 2021.)

`(a == b) == (c == d)`: the task that distributed alignment search is taught with, and a small
transformer that learns it in less than a minute.
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from tqdm.auto import trange
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reft_interp.causal.model import CausalModel
from reft_interp.models import wrap_model
from reft_interp.tasks.causal_task import CausalTask

OBJECTS = 8
_WORDS = {"same": {True: " same", False: " different"}}
_TEMPLATE = "{a} {b} {c} {d} ="


def hierarchical_equality() -> CausalTask:
    """The task: "o3 o3 o1 o5 =" is answered " same" if both pairs are alike in being alike.

    "left" and "right" say whether a pair is of equal objects. A model that answers must have them
    in some form.
    """
    model = CausalModel(
        {**_inputs(), "left": [False, True], "right": [False, True], "same": [False, True]},
        {
            "left": lambda a, b: a == b,
            "right": lambda c, d: c == d,
            "same": lambda left, right: left == right,
        },
    )
    return CausalTask(
        "hierarchical equality",
        model,
        "same",
        [_TEMPLATE],
        words=_WORDS,
        balanced=("left", "right"),
    )


def first_object_hypothesis() -> CausalTask:
    """A wrong hypothesis about the same prompts and answers: that the model keeps which object the
    first is ("first"), and compares it at the end.

    Where a model has compared the first two already, an interchange of "first" cannot give what
    this implies.
    """
    objects = _inputs()["a"]
    model = CausalModel(
        {**_inputs(), "first": objects, "same": [False, True]},
        {
            "first": lambda a: a,
            "same": lambda first, b, c, d: (first == b) == (c == d),
        },
    )
    return CausalTask(
        "hierarchical equality, first object",
        model,
        "same",
        [_TEMPLATE],
        words=_WORDS,
        balanced=("same",),
    )


def train_equality_model(
    *, steps: int = 400, seed: int = 0, progress: bool = True
) -> TransformerBridge:
    """A llama of three layers that does the task, trained from scratch.

    After each pair it is taught to say whether the two are alike as well: from the last answer
    alone, which tells nothing of either pair, so small a model learns it only after very long.

    Args:
        steps: of 256 fresh prompts each.
        seed: of weights and prompts; the random state of the caller is not touched.
        progress: show a progress bar.
    """
    words = _words()
    tokenizer = _tokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words),
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=16,
                pad_token_id=words["<pad>"],
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in trange(steps, disable=not progress, desc="training"):
            prompts, alike = _prompts(256, words["="])
            told = torch.stack([alike[:, 0], alike[:, 1], alike[:, 0] == alike[:, 1]], 1)
            answers = torch.where(told, words["same"], words["different"])
            logits = model(prompts).logits[:, (1, 3, 4)]
            loss = cross_entropy(logits.flatten(0, 1), answers.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return wrap_model(model, tokenizer, name="hierarchical equality")


def _inputs() -> dict[str, range]:
    return {name: range(OBJECTS) for name in "abcd"}


def _prompts(count: int, equals: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of prompts, and of each pair, half of the time, that its objects are equal."""
    objects = torch.randint(OBJECTS, (count, 4))
    alike = torch.rand(count, 2) < 0.5
    other = (objects[:, ::2] + torch.randint(1, OBJECTS, (count, 2))) % OBJECTS
    objects[:, 1::2] = torch.where(alike, objects[:, ::2], other)
    prompts = torch.cat([objects, torch.full((count, 1), equals)], 1)
    return prompts, alike


def _words() -> dict[str, int]:
    """Every word with its token; that of an object is its number."""
    words = [*map(str, range(OBJECTS)), "=", "same", "different", "<pad>"]
    return {word: i for i, word in enumerate(words)}


def _tokenizer(words: dict[str, int]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
