"""Prompt templates of instruction following: Alpaca's, and whatever a tokenizer brings.

The special tokens that a tokenizer adds by itself are not part of a prompt.
"""

from transformers import PreTrainedTokenizerBase

# Word for word that of Taori et al. 2023 (stanford_alpaca): models trained with it know it. The
# line end after "Response:" belongs to the prompt, as in pyreft, so that the last edited position
# is the one that predicts the answer's first word.
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def alpaca_prompt(instruction: str, input: str = "") -> str:
    """Alpaca's prompt (Taori et al. 2023); without an input it has no part for one."""
    template = _WITH_INPUT if input else _WITHOUT_INPUT
    return template.format(instruction=instruction, input=input)


def chat_prompt(tokenizer: PreTrainedTokenizerBase, instruction: str, input: str = "") -> str:
    """One turn of the user in the tokenizer's chat template, up to where the answer begins.

    Args:
        input: stands below the instruction, after an empty line.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    check_chat_template(tokenizer)
    content = f"{instruction}\n\n{input}" if input else instruction
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    # Some templates write the first special token, which tokenizing the prompt adds once more.
    ids = tokenizer("a")["input_ids"]
    if isinstance(tokenizer.bos_token, str) and tokenizer.bos_token_id in list(ids)[:1]:
        text = text.removeprefix(tokenizer.bos_token)
    return text


def check_chat_template(tokenizer: PreTrainedTokenizerBase | None) -> None:
    """
    Raises:
        ValueError: there is no tokenizer, or it has no chat template.
    """
    if tokenizer is None:
        raise ValueError('tokenizer must be given for template="chat", got None')
    if not tokenizer.chat_template:
        raise ValueError(
            f'tokenizer must have a chat template for template="chat", {tokenizer.name_or_path!r} '
            '(a base model?) has none; template="alpaca" needs none'
        )
