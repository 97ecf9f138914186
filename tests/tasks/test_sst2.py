"""SST-2 from files written here, from a copy of a hub dataset, and from the real files."""

import random
from pathlib import Path

import pytest
from datasets import Dataset

from reft_interp.tasks import sst2

ODD = [
    ("an \"unfinished quote , and it 's fine", 1),
    ('"all quoted"', 0),
    ("``tex quotes'' , café – naïve ☃ \u2028 \x85 next", 1),
    ("braces { sentence } and {0} , 100 % \\t", 0),
    ("  spaces around  ", 1),
]


def write(folder: Path, encoding="utf-8", header="", end="\n", **splits) -> Path:
    for name in ("train", "dev", "test"):
        rows = splits.get(name, ODD)
        text = header + "\n".join(f"{sentence}\t{label}" for sentence, label in rows) + end
        (folder / f"sst2.{name}.tsv").write_text(text, encoding=encoding, newline="")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What datasets converts goes to the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("header", ["", "sentence\tlabel\n"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_rows_are_those_of_the_files(tmp_path, encoding, header, end):
    task = sst2(write(tmp_path, encoding, header, end))
    for split in (task.train, task.dev, task.test):
        assert split is not None
        assert split["sentence"] == [sentence.strip() for sentence, _ in ODD]
        assert split["label"] == [label for _, label in ODD]


def test_prompt_and_answer_written_out(tmp_path):
    first, second, *_ = sst2(write(tmp_path)).train.to_list()
    assert first["prompt"] == "Review: an \"unfinished quote , and it 's fine\nSentiment:"
    assert (first["answer"], second["answer"]) == (" positive", " negative")
    assert first["choices"] == second["choices"] == [" negative", " positive"]


def test_the_span_is_the_sentence(tmp_path):
    for row in sst2(write(tmp_path)).train.to_list():
        start, end = row["spans"]["sentence"]
        assert row["prompt"][start:end] == row["sentence"]


def test_windows_line_ends_are_line_ends(tmp_path):
    write(tmp_path)
    file = tmp_path / "sst2.dev.tsv"
    file.write_bytes(b"sentence\tlabel\r\nfine\t1\r\npoor\t0\r\n")
    dev = sst2(tmp_path).dev
    assert dev is not None and dev["sentence"] == ["fine", "poor"]


def test_the_draw_is_that_of_its_seed_and_in_the_order_of_the_data(tmp_path):
    many = [(f"sentence {i:03}", i % 2) for i in range(100)]
    folder = write(tmp_path, train=many, test=many)
    task = sst2(folder, n_train=30, n_test=20, seed=1)
    assert (len(task.train), len(task.test)) == (30, 20)
    assert task.train["sentence"] == sorted(set(task.train["sentence"]))
    random.seed(99)
    assert sst2(folder, n_train=30, n_test=20, seed=1).hash == task.hash
    assert sst2(folder, n_train=30, n_test=20, seed=2).hash != task.hash
    assert len(sst2(folder, n_train=100).train) == 100


@pytest.mark.parametrize("n", [0, 6])
def test_a_draw_of_more_than_there_are_is_an_error(tmp_path, n):
    with pytest.raises(ValueError, match=f"n_test must be between 1 and 5, got {n}"):
        sst2(write(tmp_path), n_test=n)


def test_a_folder_without_the_files_says_what_is_there(tmp_path):
    write(tmp_path)
    (tmp_path / "sst2.dev.tsv").rename(tmp_path / "dev.tsv")
    (tmp_path / "glue").mkdir()
    with pytest.raises(
        ValueError, match=r"is without sst2\.dev\.tsv and has dev\.tsv, glue/, sst2\.test\.tsv"
    ):
        sst2(tmp_path)
    with pytest.raises(ValueError, match="has no files"):
        sst2(tmp_path / "glue")


def test_a_path_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder with .*nothing there"):
        sst2(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"must be a folder with .*a file"):
        sst2(write(tmp_path) / "sst2.dev.tsv")


@pytest.mark.parametrize("label", ["2", "positive", "", "1.0"])
def test_a_bad_label_is_shown_with_its_row(tmp_path, label):
    bad = [*ODD, ("odd one", label)]
    with pytest.raises(ValueError, match=rf"test row 5: label .* got '{label}' for 'odd one'"):
        sst2(write(tmp_path, test=bad))


def test_other_bad_lines_are_shown(tmp_path):
    with pytest.raises(ValueError, match=r"sst2\.test\.tsv row 1: .*got 3 in 'a\\tb\\t1'"):
        sst2(write(tmp_path, test=[("fine", 1), ("a\tb", 1)]))
    with pytest.raises(ValueError, match="train row 0: sentence must not be empty, got '  '"):
        sst2(write(tmp_path, train=[("  ", 1)]))


def copy_of_hub(folder: Path, **splits: list) -> Path:
    folder.mkdir()
    for name, rows in splits.items():
        Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    return folder


def hub_rows(rows):
    return [{"idx": i, "sentence": s, "label": label} for i, (s, label) in enumerate(rows)]


def test_a_copy_of_the_hubs_dataset_is_tested_on_its_validation_split(tmp_path):
    # The hub hides the labels of its test split: they are all -1.
    hidden = hub_rows([("hidden", -1)])
    folder = copy_of_hub(
        tmp_path / "copy", train=hub_rows(ODD), validation=hub_rows(ODD[:2]), test=hidden
    )
    task = sst2(folder)
    assert task.dev is None
    assert task.test.to_list() == sst2(write(tmp_path)).test.to_list()[:2]
    assert len(task.train) == 5


def test_a_copy_with_other_columns_or_splits_is_an_error(tmp_path):
    other = copy_of_hub(tmp_path / "other", train=[{"text": "fine", "label": 1}])
    with pytest.raises(ValueError, match=r"columns sentence and label, its split 'train' has text"):
        sst2(other)
    lacking = copy_of_hub(tmp_path / "lacking", train=hub_rows(ODD))
    with pytest.raises(ValueError, match="splits train and validation, it has train"):
        sst2(lacking)


@pytest.mark.parametrize("name", ["stanfordnlp/sst2", "glue"])
def test_a_hub_that_is_not_reached_says_what_works_without(name):
    with pytest.raises(
        ValueError,
        match=rf"path_or_hub_name: '{name}'.* is no folder with .*Without a network, give a folder",
    ):
        sst2(name)


def test_the_real_files(data_dir):
    task = sst2(data_dir / "glue", n_train=500)
    assert task.dev is not None
    assert (len(task.train), len(task.dev), len(task.test)) == (500, 872, 1821)
    # As counted by cut and uniq.
    assert sum(task.dev["label"]) == 444 and sum(task.test["label"]) == 909
    assert task.test[0]["sentence"] == "no movement , no yuks , not much of anything"
    assert task.majority == pytest.approx(909 / 1821) or task.majority == pytest.approx(912 / 1821)
