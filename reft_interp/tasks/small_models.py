"""Small transformers that are trained from scratch to do a causal task, in about a minute.

Their prompts are words; what they know is the task alone, so that a hypothesis about how they do it
can be tested without asking first whether they can.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import trange
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reft_interp.models import wrap_model
from reft_interp.tasks.causal_task import CausalTask

Draw = Callable[[int], tuple[Int[Tensor, "n words"], Int[Tensor, "n answers"]]]
"""So many prompts, and the words that are taught after some of theirs."""

_BATCH = 256
_PAD = "<pad>"


def train_small_model(
    task: CausalTask,
    *,
    steps: int = 800,
    seed: int = 0,
    layers: int = 3,
    width: int = 64,
    prompts: int = 20_000,
    taught: Mapping[str, int] = MappingProxyType({}),
    progress: bool = True,
) -> TransformerBridge:
    """A llama that does a task whose prompts are words with spaces between them.

    By default it is trained on the last word's answer alone. The task draws the prompts: balanced
    as it says, with all templates and all values.

    Args:
        task: all of its prompts must have the same number of words.
        steps: of 256 prompts each.
        seed: of weights and prompts; the random state of the caller is not touched.
        layers: of the model.
        width: of its residual stream; a multiple of 4.
        prompts: how many are drawn; steps draw from these.
        taught: variables whose value is taught too, and after which word (from 0): from the answer
            alone, a model may learn the task without a place where the variable can be found.
        progress: show a progress bar.

    Raises:
        ValueError: prompts of different lengths, or an answer of several words; `taught` names no
            variable, or no word of the prompt.
    """
    unknown = [name for name in taught if name not in task.causal_model.domains]
    if unknown:
        raise ValueError(
            f"taught must name variables ({', '.join(task.causal_model.domains)}), got {unknown}"
        )
    drawn = [task.draw(random.Random(f"{seed} {i}")) for i in range(prompts)]
    texts = [prompt.text.split() for prompt in drawn]
    lengths = sorted({len(text) for text in texts})
    if len(lengths) > 1:
        raise ValueError(f"task: {task.name} has prompts of {lengths} words, one length is needed")
    for name, place in taught.items():
        if not 0 <= place < lengths[0]:
            raise ValueError(
                f"taught: {name} must follow a word from 0 to {lengths[0] - 1}, got {place}"
            )
    answers = [choice.split() for choice in task.choices]
    if several := [answer for answer in answers if len(answer) != 1]:
        raise ValueError(f"task: {task.name} has an answer of several words: {several[0]}")
    told_words = [
        [*(f"{name}={prompt.setting[name]}" for name in taught), prompt.answer.strip()]
        for prompt in drawn
    ]
    words = sorted({word for text in [*texts, *answers, *told_words] for word in text})
    known = {word: i for i, word in enumerate([*words, _PAD])}
    ids = torch.tensor([[known[word] for word in text] for text in texts])
    told = torch.tensor([[known[word] for word in line] for line in told_words])

    def draw(count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(ids), (count,))
        return ids[chosen], told[chosen]

    return train_on_words(
        task.name, known, draw, [*taught.values(), -1], steps=steps, seed=seed, layers=layers,
        width=width, progress=progress,
    )  # fmt: skip


def train_on_words(
    name: str,
    words: dict[str, int],
    draw: Draw,
    taught: Sequence[int],
    *,
    steps: int,
    seed: int,
    layers: int = 3,
    width: int = 64,
    progress: bool = True,
) -> TransformerBridge:
    """A llama that is trained to say what `draw` teaches.

    Args:
        name: for `identify`.
        words: every word with its token; "<pad>" among them.
        draw: gives prompts and what is taught.
        taught: after which words of the prompt, in the order of what is taught.
        steps: of 256 fresh prompts each.
        seed: of weights and prompts; the random state of the caller is not touched.
        layers: of the model.
        width: of its residual stream; a multiple of 4.
        progress: show a progress bar.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=64,
                pad_token_id=words[_PAD],
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in trange(steps, disable=not progress, desc="training"):
            prompts, answers = draw(_BATCH)
            logits = model(prompts).logits[:, list(taught)]
            loss = cross_entropy(logits.flatten(0, 1), answers.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return wrap_model(model, _tokenizer(words), name=name)


def _tokenizer(words: dict[str, int]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD)
