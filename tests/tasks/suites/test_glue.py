"""GLUE: from files of each layout written here, from copies of the hub's, and the real files."""

import json

import pytest
from datasets import Dataset

from reft_interp.tasks.suites import GLUE, glue

COLA = 'gj04\t1\t\tThe "car honked.\nl-93\t0\t*\tHe car.\n'
STSB_HEADER = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
)
RTE_HEADER = "index\tsentence1\tsentence2\tlabel\n"


def test_cola_has_no_header_and_quote_marks_are_text(tmp_path, write):
    write("cola.train.tsv", COLA)
    write("cola.val.tsv", 'gj04\t1\t\t"All quoted"\n')
    write("cola.dev.tsv", "gj04\t1\t\tShe ran.\nl-93\t0\t*\tShe run.\n")
    suite = glue("CoLA", tmp_path)
    assert suite.train is not None and suite.development is not None
    assert suite.train["text_a"] == ['The "car honked.', "He car.", '"All quoted"']
    assert suite.train["label"] == [1, 0, 1]
    assert suite.train[0]["text_b"] is None
    assert suite.train["gold"] == ["acceptable", "unacceptable", "acceptable"]
    assert "note: train rows are those of cola.train.tsv, cola.val.tsv" in str(suite)


def test_a_row_for_decoders_and_encoders_written_out(tmp_path, write):
    row = {"premise": " A{0} man ", "hypothesis": "A person ", "label": "neutral"}
    write("mnli.train2.json", {"0": {"text_a": "a", "text_b": "b", "label": "contradiction"}})
    write("mnli.dev.jsonl", "\n".join(json.dumps(row) for _ in range(2)))
    suite = glue("mnli", tmp_path)
    assert suite.train is not None
    assert suite.tests["mnli"].to_list() == [
        {
            "prompt": "Premise: A{0} man\nHypothesis: A person\n"
            "Does the premise imply the hypothesis?\nAnswer:",
            "answer": " maybe",
            "gold": "neutral",
            "choices": [" yes", " maybe", " no"],
            "text_a": " A{0} man ",
            "text_b": "A person ",
            "label": 1,
        }
    ]
    assert (suite.train[0]["label"], suite.train[0]["answer"]) == (2, " no")


def test_a_byte_order_mark_and_msr_columns(tmp_path, write):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    write("mrpc.msr_paraphrase_train.txt", f'{header}1\t7\t8\tHe said "no\tHe "said" no\n')
    write("mrpc.msr_paraphrase_test.txt", f"{header}0\t7\t8\ta\tb\n1\t7\t8\tc\td\n")
    suite = glue("mrpc", tmp_path)
    assert suite.train is not None
    (row,) = suite.train.to_list()
    assert (row["text_a"], row["text_b"]) == ('He said "no', 'He "said" no')
    assert (row["gold"], row["answer"]) == ("equivalent", " yes")


def test_a_part_without_a_header_beside_one_with(tmp_path, write):
    write("rte.train.tsv", f"{RTE_HEADER}0\ta\tb\tentailment\n")
    write("rte.val.tsv", "2\tc\td\tnot_entailment\n7\te\tf\tentailment\n")
    write("rte.dev.tsv", f"{RTE_HEADER}0\ta\tc\t0\n1\tb\td\t1\n")
    suite = glue("rte", tmp_path)
    assert suite.train is not None and suite.development is not None
    assert suite.train["label"] == [0, 1, 0]
    assert {*suite.development["gold"], *suite.tests["rte"]["gold"]} == {
        "entailment",
        "not_entailment",
    }


@pytest.mark.parametrize(
    ("score", "text"),
    [
        ("0", "0.0"),
        ("5.000", "5.0"),
        ("3.8", "3.8"),
        ("4.750", "4.8"),
        ("0.1", "0.2"),
        ("2.29", "2.2"),
    ],
)
def test_scores_are_rounded_in_words_and_exact_in_gold(tmp_path, write, score, text):
    row = f"0\tg\tf\ty\t0\tn\tn\ta\tb\t{score}\n"
    write("stsb.train.tsv", f"{STSB_HEADER}\n{row}")
    write("stsb.dev.tsv", f"{STSB_HEADER}\n{row * 2}")
    (found,) = glue("STS-B", tmp_path).tests["stsb"].to_list()
    assert found["answer"] == f" {text}"
    assert float(found["gold"]) == found["label"] == float(score)
    assert abs(float(text) - float(score)) <= 0.1 + 1e-9 and len(found["choices"]) == 26


def sst2(tmp_path, write, n=8, **columns):
    rows = "".join(f"sentence {i}\t{i % 2}\n" for i in range(n))
    write("sst2.train.tsv", rows)
    write("sst2.dev.tsv", "sentence\tlabel\n" + rows)
    return glue("SST-2", tmp_path, **columns)


def test_the_validation_rows_are_halved_by_the_seed(tmp_path, write):
    suite = sst2(tmp_path, write, 41)
    assert suite.development is not None
    chosen, reported = suite.development["text_a"], suite.tests["sst2"]["text_a"]
    assert (len(chosen), len(reported)) == (20, 21)
    assert sorted([*chosen, *reported]) == sorted(f"sentence {i}" for i in range(41))
    assert (
        glue("sst2", tmp_path, seed=42).hash == suite.hash != glue("sst2", tmp_path, seed=43).hash
    )


def test_of_a_large_validation_set_a_thousand_rows_are_enough_for_development(tmp_path, write):
    rows = [{"text_a": f"{i}", "text_b": "b", "label": i % 2} for i in range(2500)]
    write("qqp.train.json", rows[:2])
    write("qqp.dev.json", rows)
    suite = glue("qqp", tmp_path)
    assert suite.development is not None
    assert (len(suite.development), len(suite.tests["qqp"])) == (1000, 1500)


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        (" positive", "positive"),
        ("Negative.", "negative"),
        (" it is positive, not negative", "positive"),
        ("positively", None),
        (" not positive", None),
        (" isn't very positive", None),
        (" not positive but negative", "negative"),
        ("Neither positive nor negative", None),
        ("good", None),
        ("", None),
    ],
)
def test_words_are_read_as_labels(tmp_path, write, output, gold):
    assert sst2(tmp_path, write).extract(output) == gold


@pytest.mark.parametrize(
    ("output", "score"),
    [
        (" 3.8", "3.8"),
        ("4", "4.0"),
        (" 4.2 of 5\nSentence 1: 3", "4.2"),
        (" 4/5", "4.0"),
        ("3.8 (0.0 to 5.0)", "3.8"),
        ("9", "5.0"),
        ("-1", "0.0"),
    ],
)
def test_scores_are_read_from_the_first_line_and_drawn_into_the_scale(
    tmp_path, write, output, score
):
    row = "0\tg\tf\ty\t0\tn\tn\ta\tb\t1\n"
    write("stsb.train.tsv", f"{STSB_HEADER}\n{row}")
    write("stsb.dev.tsv", f"{STSB_HEADER}\n{row * 2}")
    suite = glue("stsb", tmp_path)
    assert suite.extract(output) == score
    assert suite.extract("similar") is None


def test_metrics_are_the_papers_and_glues(tmp_path, write):
    suite = sst2(tmp_path, write, 9)
    rows = suite.tests["sst2"]
    assert suite.score(rows["answer"], rows) == 1.0
    assert suite.score([" positive"] * len(rows), rows) == pytest.approx(sum(rows["label"]) / 5)
    # An encoder's predictions are numbers.
    assert suite.metric([1 - label for label in rows["label"]], rows["label"]) == 0.0


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"name must be one of mnli, .*, rte, got 'wnli'"):
        glue("wnli")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fine\t2", r"sst2\.dev\.tsv row 1: label must be one of negative, positive, or its"),
        ("fine\t-1", r"row 1: label must be one of .*got '-1'"),
        (" \t1", "row 1: sentence must not be empty"),
        ("a\tb\t1", r"row 1: must have 2 fields \(sentence, label\), got 3 in 'a\\tb\\t1'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, write, line, message):
    write("sst2.train.tsv", "fine\t1\n")
    write("sst2.dev.tsv", f"fine\t1\n{line}\n")
    with pytest.raises(ValueError, match=message):
        glue("sst2", tmp_path)


def test_training_rows_without_one_of_their_texts_are_left_out_and_counted(tmp_path, write):
    """The hub's QQP has two of them; a row that is scored must be whole."""
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    lines = [f"{i}\t1\t2\tWhat is {i}?\tWhat's {i}?\t{i % 2}\n" for i in range(20)]
    alone = "20\t1\t2\tHow can I develop android app?\t\t0\n"
    write("qqp.train.tsv", header + "".join([*lines[:5], alone, *lines[5:10]]))
    write("qqp.dev.tsv", header + "".join(lines[10:]))
    suite = glue("qqp", tmp_path)
    assert suite.train is not None
    assert suite.train["text_a"] == [f"What is {i}?" for i in range(10)]
    assert suite.notes[-1] == "left out: 1 training rows without one of their texts"
    (tmp_path / "qqp.train.tsv").unlink()
    (tmp_path / "qqp.dev.tsv").unlink()
    rows = [{"question1": f"What is {i}?", "question2": f"{i}?", "label": i % 2} for i in range(20)]
    write("qqp.train.json", [{**rows[0], "question2": None}, *rows[:10]])
    write("qqp.dev.json", rows[10:])
    assert glue("qqp", tmp_path).notes[-1] == suite.notes[-1]
    (tmp_path / "qqp.train.json").unlink()
    (tmp_path / "qqp.dev.json").unlink()
    write("qqp.train.tsv", header + "".join(lines[:10]))
    write("qqp.dev.tsv", header + "".join([*lines[10:], alone]))
    with pytest.raises(ValueError, match=r"qqp\.dev\.tsv row 10: question2 must not be empty"):
        glue("qqp", tmp_path)


def test_a_bad_score_and_a_missing_column_are_named(tmp_path, write):
    row = "0\tg\tf\ty\t0\tn\tn\ta\tb\t"
    write("stsb.train.tsv", f"{STSB_HEADER}\n{row}5.1\n")
    write("stsb.dev.tsv", f"{STSB_HEADER}\n{row}5\n")
    with pytest.raises(ValueError, match=r"label must be a score from 0 to 5, got '5\.1'"):
        glue("stsb", tmp_path)
    write("qnli.train.json", [{"question": "a", "label": 0}])
    write("qnli.dev.json", [{"question": "a", "label": 0}])
    with pytest.raises(ValueError, match=r"qnli\.train\.json row 0 .* sentence missing"):
        glue("qnli", tmp_path)


def test_a_folder_without_the_files_says_what_is_there(tmp_path, write):
    write("sst2.train.tsv", "fine\t1\n")
    with pytest.raises(
        ValueError, match=r"has no validation file of sst2, it has sst2\.train\.tsv"
    ):
        glue("sst2", tmp_path)


def test_a_copy_of_the_hubs_dataset_has_its_matched_validation_split(tmp_path):
    rows = [{"premise": f"{i}", "hypothesis": "b", "label": i % 3, "idx": i} for i in range(10)]
    for split in ("train", "validation_matched", "validation_mismatched", "test_matched"):
        some = rows[:6] if split == "train" else rows[6:]
        hidden = {"label": -1} if split.startswith("test") else {}
        Dataset.from_list([row | hidden for row in some]).to_parquet(tmp_path / f"{split}.parquet")
    splits = ("train", "validation_matched", "validation_mismatched", "test_matched")
    files = "".join(f'  - {{split: {split}, path: "{split}.parquet"}}\n' for split in splits)
    (tmp_path / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    )
    suite = glue("mnli", tmp_path)
    assert suite.train is not None and suite.development is not None
    assert suite.train["gold"][:3] == ["entailment", "neutral", "contradiction"]
    assert (len(suite.train), len(suite.development), len(suite.tests["mnli"])) == (6, 2, 2)
    assert suite.notes == ()


@pytest.mark.parametrize("matched", ["mnli.dev_matched.tsv", "mnli.dev.tsv"])
def test_mismatched_rows_of_a_folder_are_left_out_where_there_are_others(tmp_path, write, matched):
    def rows(tag):
        lines = "".join(f"{tag} {i}\tb\tneutral\n" for i in range(6))
        return f"premise\thypothesis\tlabel\n{lines}"

    write("mnli.train.tsv", rows("train"))
    write("mnli.dev_mismatched.tsv", rows("other"))
    alone = glue("mnli", tmp_path)
    assert "note: validation rows are those of mnli.dev_mismatched.tsv" in str(alone)
    write(matched, rows("same"))
    suite = glue("mnli", tmp_path)
    assert suite.development is not None
    read = [*suite.development["text_a"], *suite.tests["mnli"]["text_a"]]
    assert sorted(read) == [f"same {i}" for i in range(6)]
    assert suite.notes[1] == f"validation rows are those of {matched}"


def test_a_hub_that_is_not_reached_says_what_works_without():
    with pytest.raises(
        ValueError, match=r"'nyu-mll/glue' \(rte\) is no folder with rte\.train.*network"
    ):
        glue("rte")


METRICS = {
    "mnli": ["accuracy"],
    "qnli": ["accuracy"],
    "qqp": ["accuracy", "F1"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "F1"],
    "cola": ["Matthews correlation"],
    "stsb": ["Pearson correlation", "Spearman correlation"],
    "rte": ["accuracy"],
}

# Rows of train and validation, and how many of the validation rows have label 1, as counted by
# wc, cut and uniq.
REAL = {
    "mnli": (2000, 5000, 1576),
    "qnli": (2000, 5463, 2761),
    "qqp": (2000, 1000, 377),
    "sst2": (6920, 872, 444),
    "mrpc": (4076, 1725, 1147),
    "cola": (7250 + 1301, 1043, 721),
    "stsb": (5749, 1500, None),
    "rte": (2127 + 363, 277, 131),
}

# Training rows whose texts are in the validation file too, as counted by cut, sort and join, and
# rows of the development half that the other half has.
REPEATED = {"cola": (16, 1), "stsb": (6, 2)}


@pytest.mark.parametrize("name", GLUE)
def test_the_real_files(data_dir, name):
    suite = glue(name, data_dir / "glue")
    assert [metric.name for metric in (suite.metric, *suite.other_metrics)] == METRICS[name]
    train, validation, ones = REAL[name]
    assert suite.train is not None and suite.development is not None
    test = suite.tests[name]
    again, twice = REPEATED.get(name, (0, 0))
    assert len(suite.train) == train - again
    assert len(suite.development) + len(test) == validation - twice
    assert ("left out" in str(suite)) == (name in REPEATED)
    labels = [*suite.development["label"], *test["label"]]
    assert ones is None or 0 <= ones - labels.count(1) <= twice
    # Rows have few answers: what is read from each, for all rows that have it.
    pairs = {
        (answer, gold)
        for rows in (suite.train, suite.development, test)
        for answer, gold in zip(rows["answer"], rows["gold"], strict=True)
    }
    for answer, gold in pairs:
        read = suite.extract(answer)
        if name == "stsb":
            assert read is not None and abs(float(read) - float(gold)) <= 0.1 + 1e-9
        else:
            assert read == gold
    scores = suite.scores(test["answer"], test)
    assert all(score > 0.999 for score in scores.values())
    assert name == "stsb" or set(scores.values()) == {1.0}
