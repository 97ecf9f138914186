"""Win rates with judges whose verdicts are known, and ROUGE-L against its paper's examples."""

import itertools
import math
import random
from functools import cache

import pytest
from scipy.stats import t

from reft_interp.evaluation import Accuracy
from reft_interp.tasks.suites import NoVerdict, WinRate, rouge_l_proxy, win_rate
from reft_interp.tasks.suites.judging import rouge_l


def records(outputs, generator="ours"):
    return [
        {"instruction": f"do {i}", "output": output, "generator": generator}
        for i, output in enumerate(outputs)
    ]


REFERENCE = records(["aa", "bbb", "cc", "d"], "theirs")


def longer(instruction, output, reference):
    return 0.5 if len(output) == len(reference) else float(len(output) > len(reference))


def test_the_win_rate_is_the_mean_of_the_verdicts():
    rate = win_rate(records(["aaa", "b", "cc", "dd"]), REFERENCE, longer)
    assert rate.scores == (1.0, 0.0, 0.5, 1.0)
    assert (rate.value, rate.n) == (0.625, 4)
    assert rate.interval == (0, 1)  # of four instructions: no share is outside
    assert str(rate).startswith("ours against theirs, judged by longer: 0.625 [")
    many = win_rate(records(["aaa", "b", "cc", "dd"]) * 10, REFERENCE, longer)
    deviation = math.sqrt(sum((s - 0.625) ** 2 for s in many.scores) / 39)
    half = t.ppf(0.975, 39) * deviation / math.sqrt(40)
    assert many.interval == pytest.approx((0.625 - half, 0.625 + half))


def test_what_a_judge_cannot_say_is_counted_and_counts_for_neither():
    def sometimes(instruction, output, reference):
        if output == "?":
            raise NoVerdict("the judge must reply A, B or tie, it replied 'hm'")
        return 1.0

    rate = win_rate(records(["a", "?", "c", "d"]), REFERENCE, sometimes)
    assert (rate.value, rate.n, rate.without_verdict) == (1.0, 3, 1)
    assert str(rate).endswith("n=3, 1 without a verdict")
    with pytest.raises(NoVerdict, match=r"no verdict on any of 2 outputs: .* it replied 'hm'"):
        win_rate(records(["?", "?"]), REFERENCE, sometimes)


@pytest.mark.parametrize("cut", [0, 10])
def test_kept_verdicts_are_not_asked_for_again(tmp_path, cut):
    outputs, asked, up = records(["aaa", "?", "cc", "dd"]), [], False

    def judge(instruction, output, reference):
        asked.append(output)
        if output == "?":
            raise NoVerdict("it replied 'hm'")
        if output == "dd" and not up:
            raise ConnectionError("the server is gone")
        return longer(instruction, output, reference)

    file = tmp_path / "new" / "verdicts.jsonl"
    with pytest.raises(ConnectionError) as failed:
        win_rate(outputs, REFERENCE, judge, verdicts=file)
    assert failed.value.__notes__ == [f"3 of 4 verdicts are kept in {file}"]
    assert asked == ["aaa", "?", "cc", "dd"]
    up, asked[:] = True, []
    file.write_bytes(file.read_bytes()[: -cut or None])  # as a process that was killed leaves it
    rate = win_rate(outputs, REFERENCE, judge, verdicts=file)
    assert asked == (["cc", "dd"] if cut else ["dd"])
    assert (rate.scores, rate.without_verdict) == ((1.0, 0.5, 1.0), 1)
    again = win_rate(records(["aaa", "?", "other", "dd"]), REFERENCE, judge, verdicts=file)
    assert asked[-1] == "other" and again.scores == (1.0, 1.0, 1.0)
    win_rate(outputs[:1], REFERENCE, longer, verdicts=file)  # what another judge says is its own
    assert file.read_text().count('"longer"') == 1


def test_verdicts_are_kept_of_judges_with_a_name(tmp_path):
    class Judge:
        def __call__(self, instruction, output, reference):
            return 1.0

    for judge in (Judge(), lambda *given: 1.0):
        assert win_rate(records(["a"]), REFERENCE, judge).value == 1
        with pytest.raises(ValueError, match="this judge has none; set its __name__"):
            win_rate(records(["a"]), REFERENCE, judge, verdicts=tmp_path / "verdicts.jsonl")


def test_a_file_of_something_else_is_no_verdicts(tmp_path):
    file = tmp_path / "outputs.jsonl"
    for text in ('{"instruction": "do 0", "output": "aa"}', "no JSON", "[]"):
        file.write_text(f"{text}\n")
        with pytest.raises(ValueError, match=r"verdicts: line 1 of .*outputs.jsonl must be"):
            win_rate(records(["a"]), REFERENCE, longer, verdicts=file)
        assert file.read_text() == f"{text}\n"


def test_outputs_are_paired_by_instruction():
    mixed = list(reversed(records(["aaa", "b", "cc", "dd"])))[:3]
    assert win_rate(mixed, REFERENCE, longer).scores == (1.0, 0.5, 0.0)


def test_the_judge_is_given_instruction_output_and_reference():
    seen = []
    win_rate(records(["ours"]), REFERENCE, lambda *given: seen.append(given) or 0.0)
    assert seen == [("do 0", "ours", "aa")]


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), "better", None])
def test_a_score_that_is_no_share_is_an_error(score):
    with pytest.raises(ValueError, match=r"number from 0 to 1, .* gave .* for 'do 0'"):
        win_rate(records(["a"]), REFERENCE, lambda *given: score)


def test_records_without_a_text_are_an_error():
    with pytest.raises(ValueError, match=r"outputs: record 0 lacks \['output'\]"):
        win_rate([{"instruction": "do 0"}], REFERENCE, longer)
    with pytest.raises(ValueError, match=r"reference: record 1 lacks \['instruction'\]"):
        win_rate(records(["a"]), [REFERENCE[0], {"output": "a"}], longer)


def test_outputs_without_a_reference_are_an_error():
    with pytest.raises(ValueError, match="1 are missing, the first is 'do 4'"):
        win_rate(records(["a"] * 5), REFERENCE, longer)
    with pytest.raises(ValueError, match="one output an instruction, got two for 'do 0'"):
        win_rate(records(["a"]), [*REFERENCE, *records(["other"])], longer)
    with pytest.raises(ValueError, match="at least one record, got none"):
        win_rate([], REFERENCE, longer)


def test_rouge_l_counts_the_longest_common_subsequence():
    @cache
    def longest(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + longest(a[1:], b[1:])
        return max(longest(a[1:], b), longest(a, b[1:]))

    draw = random.Random(0)
    for words, size in itertools.product(("ab", "abcdef"), (1, 5, 12, 70)):
        for _ in range(4):
            a, b = (tuple(draw.choices(words, k=draw.randint(1, size))) for _ in range(2))
            expected = 2 * longest(a, b) / (len(a) + len(b))
            assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        # Lin 2004, section 3.1: S1, and candidates S2 and S3 (precision and recall are equal).
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        # Precision 2/2 and recall 2/5.
        ("b d", "a b c d e", 2 * 1 * 0.4 / 1.4),
        ("Same, words!", "same words", 1.0),
        ("a b a b", "b a b a", 3 / 4),
        ("nothing", "shared", 0.0),
        ("", "words", 0.0),
        ("words", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_l_is_that_of_its_paper(text, reference, expected):
    assert rouge_l(text, reference) == pytest.approx(expected)
    assert rouge_l(reference, text) == pytest.approx(expected)


def test_the_proxy_says_that_it_is_one():
    assert rouge_l_proxy("do", "police kill the gunman", "police killed the gunman") == 0.75
    rate = win_rate(records(["aa", "bbb", "cc", "x"]), REFERENCE, rouge_l_proxy)
    assert rate.value == 0.75 and rate.judge == "rouge_l_proxy"


def test_a_system_that_always_wins_has_the_interval_of_so_few():
    rate = WinRate("judge", "one", "other", (1.0,) * 5)
    assert rate.interval == pytest.approx(Accuracy(5, 5).interval)
    assert "1.000 [0.566, 1.000]" in str(rate)
