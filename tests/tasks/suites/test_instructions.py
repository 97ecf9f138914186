"""The instruction suite: prompts word for word, files of AlpacaEval, and the real data."""

import json

import pytest
from datasets import Dataset

from reft_interp.tasks.suites import instructions, read_outputs, rouge_l_proxy, write_outputs
from reft_interp.tasks.suites.judging import win_rate

ROWS = [
    {"instruction": "Say hello.", "input": "", "output": "Hello! "},
    {"instruction": "Add them.", "input": "2 and 3", "output": "5"},
    {"instruction": "Say nothing.", "input": "", "output": " "},
]
EVALUATION = [
    {"dataset": "koala", "instruction": "Greet me.", "output": "Hi there", "generator": "theirs"},
    {"dataset": "vicuna", "instruction": "Go away.", "output": "", "generator": "theirs"},
]

# Taori et al. 2023, as in the README of stanford_alpaca, with the line end of its last line.
WITHOUT_INPUT = """\
Below is an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
Say hello.

### Response:
"""  # noqa: E501
WITH_INPUT = """\
Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.

### Instruction:
Add them.

### Input:
2 and 3

### Response:
"""  # noqa: E501


@pytest.fixture
def folder(tmp_path, write):
    write("alpaca_data.json", ROWS)
    write("alpaca_eval.json", EVALUATION)
    write("alpaca_seed_tasks.jsonl", '{"instances": []}')
    return tmp_path


def test_prompts_are_alpacas_word_for_word(folder):
    suite = instructions(folder)
    assert suite.train is not None
    first, second = suite.train.to_list()
    assert (first["prompt"], first["answer"]) == (WITHOUT_INPUT, "Hello!")
    assert (second["prompt"], second["answer"]) == (WITH_INPUT, "5")
    assert (second["instruction"], second["input"]) == ("Add them.", "2 and 3")


def test_rows_without_output_are_left_out_and_counted(folder):
    assert "note: left out of training: 1 without an output" in str(instructions(folder))


def test_training_rows_that_the_test_set_has_are_left_out_and_counted(folder, write):
    write("alpaca_data.json", [*ROWS, {"instruction": "Greet me.", "input": "", "output": "Hi"}])
    suite = instructions(folder)
    assert suite.train is not None and suite.train["instruction"] == ["Say hello.", "Add them."]
    assert suite.notes[1] == "left out: 1 training rows whose prompts a later split has"


def test_the_evaluation_file_is_the_test_set_whole(folder):
    suite = instructions(folder)
    test = suite.tests["alpaca_eval"]
    assert test["gold"] == ["Hi there", ""]
    assert test["dataset"] == ["koala", "vicuna"]
    assert test[0]["prompt"] == WITHOUT_INPUT.replace("Say hello.", "Greet me.")
    assert suite.score(["hi, there!", "no"], test) == 0.5
    assert "a proxy" in suite.metric.name


def test_a_file_or_a_copy_of_a_hub_dataset_will_do(folder, tmp_path):
    from_folder = instructions(folder)
    evaluation = folder / "alpaca_eval.json"
    from_file = instructions(folder / "alpaca_data.json", evaluation=evaluation)
    assert from_file.hash == from_folder.hash
    (tmp_path / "copy").mkdir()
    Dataset.from_list(ROWS).to_parquet(tmp_path / "copy" / "train.parquet")
    assert instructions(tmp_path / "copy", evaluation=evaluation).hash == from_folder.hash
    assert instructions(folder / "alpaca_data.json").tests == {}


def test_rows_for_development_are_held_out(folder):
    suite = instructions(folder, n_development=1)
    assert suite.train is not None and suite.development is not None
    assert (len(suite.train), len(suite.development)) == (1, 1)
    assert suite.train["prompt"] != suite.development["prompt"]


def test_the_hub_is_not_reached_without_a_network():
    with pytest.raises(ValueError, match=r"'tatsu-lab/alpaca' is no folder .*Without a network"):
        instructions()


def test_a_folder_with_two_files_to_train_on_is_an_error(folder, write):
    write("alpaca_more.json", ROWS)
    with pytest.raises(ValueError, match=r"one file of each .*alpaca_more\.json.*give the file"):
        instructions(folder)


def test_a_bad_row_is_named(tmp_path, write):
    write("alpaca_data.json", [ROWS[0], {"instruction": "Say hello."}])
    with pytest.raises(ValueError, match=r"alpaca_data\.json row 1 .* output missing"):
        instructions(tmp_path)


CHAT = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(("architecture", "begins"), [("llama", ""), ("gpt2", "<s>")])
def test_the_chat_template_leaves_out_what_tokenizing_adds(
    folder, tiny_parts, architecture, begins
):
    _, tokenizer = tiny_parts(architecture)  # llama's tokenizer adds BOS, gpt2's does not
    tokenizer.chat_template = CHAT
    suite = instructions(folder, template="chat", tokenizer=tokenizer)
    assert suite.train is not None
    assert suite.train["prompt"] == [
        f"{begins}<user>Say hello.<assistant>",
        f"{begins}<user>Add them.\n\n2 and 3<assistant>",
    ]
    ids = tokenizer(suite.train["prompt"][0])["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_missing_chat_template_is_an_error(folder, tiny_parts):
    _, tokenizer = tiny_parts("llama")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match='tokenizer must have a chat template for template="chat"'):
        instructions(folder, template="chat", tokenizer=tokenizer)
    with pytest.raises(ValueError, match='tokenizer must be given for template="chat", got None'):
        instructions(folder, template="chat")


def test_outputs_are_written_as_alpaca_eval_reads_them(folder, tmp_path):
    suite = instructions(folder)
    assert suite.train is not None
    file = tmp_path / "outputs.json"
    write_outputs(file, suite.tests["alpaca_eval"], [" Hé ☃\u2028\n", ""], "ours")
    assert json.loads(file.read_text(encoding="utf-8")) == [
        {"dataset": "koala", "instruction": "Greet me.", "output": "Hé ☃", "generator": "ours"},
        {"dataset": "vicuna", "instruction": "Go away.", "output": "", "generator": "ours"},
    ]
    assert not list(tmp_path.glob("*.part*"))
    write_outputs(file, suite.train, ["Hello!", "5"], "ours")
    assert read_outputs(file)[1]["instruction"] == "Add them.\n\n2 and 3"


def test_what_cannot_be_written_is_an_error(folder, tmp_path):
    test = instructions(folder).tests["alpaca_eval"]
    file = tmp_path / "outputs.json"
    with pytest.raises(ValueError, match="one for each of 2 rows, got 1"):
        write_outputs(file, test, ["a"], "ours")
    with pytest.raises(ValueError, match="generator_name must be a name"):
        write_outputs(file, test, ["a", "b"], "")
    with pytest.raises(ValueError, match="rows: row 0 must have an instruction, it has prompt"):
        write_outputs(file, [{"prompt": "a"}], ["a"], "ours")
    assert not file.exists()


def test_the_real_files(data_dir, tmp_path):
    suite = instructions(data_dir / "instruct")
    assert suite.train is not None
    # One of the 2,000 rows has no output.
    assert (len(suite.train), len(suite.tests["alpaca_eval"])) == (1999, 805)
    test = suite.tests["alpaca_eval"]
    reference = read_outputs(data_dir / "instruct" / "alpaca_eval.text_davinci_003.json")
    assert test["gold"] == [row["output"].strip() for row in reference]
    # Two of the reference outputs are empty and three are drawings, without a letter or digit.
    worded = sum(any(character.isalnum() for character in row["output"]) for row in reference)
    assert worded == 800
    assert suite.score(test["gold"], test) == pytest.approx(worded / 805)
    some = test.select(range(100))
    write_outputs(tmp_path / "copy.json", some, some["gold"], "a copy")
    rate = win_rate(read_outputs(tmp_path / "copy.json"), reference, rouge_l_proxy)
    assert (rate.generator, rate.reference, rate.n) == ("a copy", "text_davinci_003", 100)
    assert rate.value == 1.0
