"""Position selectors against a naive reference, token by token, and against planted answers."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_encoding import TOKENIZERS, sides, texts, tokenizers

from reft_interp.encoding import TokenizedBatch, tokenize
from reft_interp.positions import (
    FirstLast,
    Positions,
    PositionSelector,
    check_alignment,
    every,
    first,
    first_last,
    indices,
    last,
    parse_positions,
    span,
    substring,
)
from reft_interp.runtime.batching import encode
from reft_interp.showing import show

parts = st.sampled_from(["prompt", "answer"])
counts = st.integers(0, 9)
names = st.text(min_size=1, max_size=8)
pieces = st.sampled_from(["e", "k", "ke"])
selectors = st.one_of(
    st.builds(
        FirstLast,
        counts,
        counts.map(lambda n: n + 1),
        rounding=st.sampled_from(["paper", "pyreft", "paired"]),
        of=parts,
    ),
    st.builds(first, counts.map(lambda n: n + 1), of=parts),
    st.builds(every, of=parts),
    st.lists(st.integers(-6, 5), min_size=1, max_size=4).flatmap(
        lambda at: st.builds(partial(indices, *at), of=parts)
    ),
    st.builds(span, st.just("subject"), all=st.booleans()),
    st.builds(span, names, all=st.booleans()),
    st.builds(substring, pieces, all=st.booleans(), occurrence=st.integers(-1, 1), of=parts),
    st.builds(substring, pieces, all=st.booleans(), of=parts),
    st.builds(substring, names, all=st.booleans(), occurrence=st.integers(-2, 2), of=parts),
)


def naive(s, text: str, offsets: list[tuple[int, int]], subject: tuple[int, int]) -> list[int]:
    """The tokens that `s` selects; an IndexError or nothing where it finds none."""
    n = len(offsets)
    kind = type(s).__name__
    if kind == "Every":
        return [i for i in range(n)]
    if kind == "Indices":
        return sorted({list(range(n))[i] for i in s.at})
    if kind == "FirstLast":
        half_down, half_up = n // 2, n // 2 + n % 2
        chosen = []
        for i in range(n):
            behind = n - i  # the last token is 1
            if s.rounding == "pyreft":
                hit = (i < s.first and i < half_down) or (behind <= s.last and behind <= half_down)
            elif s.rounding == "paper" and (s.first == 0 or s.last == 0):
                hit = i < s.first or behind <= s.last
            else:
                hit = (i < s.first and i < half_down) or (behind <= s.last and behind <= half_up)
            if hit:
                chosen.append(i)
        return chosen
    if kind == "Span":
        characters = set(range(*subject)) if s.name == "subject" else set()
    else:
        starts, at = [], 0
        while at <= len(text) - len(s.text):
            if text[at : at + len(s.text)] == s.text:
                starts.append(at)
                at += len(s.text)
            else:
                at += 1
        start = starts[s.occurrence]
        characters = set(range(start, start + len(s.text)))
    chosen = [i for i, (a, b) in enumerate(offsets) if characters & set(range(a, b))]
    return chosen if s.all else chosen[-1:]


@settings(deadline=None, max_examples=300)
@given(
    tokenizer=tokenizers,
    rows=st.lists(
        st.tuples(texts, texts, st.integers(0, 99), st.integers(1, 9)), min_size=1, max_size=4
    ),
    selector=selectors,
    side=sides,
)
def test_a_selector_selects_what_a_naive_loop_over_the_tokens_does(tokenizer, rows, selector, side):
    prompts, answers = [row[0] for row in rows], [row[1] for row in rows]
    subjects = []
    for prompt, _, start, length in rows:
        start %= len(prompt)
        subjects.append((start, min(start + length, len(prompt))))
    spans = [{"subject": subject} for subject in subjects]
    batch = tokenize(tokenizer, prompts, answers, spans=spans, padding_side=side)

    raw = tokenizer.backend_tokenizer
    prompt_side = [raw.encode(prompt) for prompt in prompts]
    answer_side = [raw.encode(answer, add_special_tokens=False) for answer in answers]
    width = max(len(p) + len(a) for p, a in zip(prompt_side, answer_side, strict=True))
    expected: list[tuple[int, int]] = []
    for i in range(len(rows)):
        padding = width - len(prompt_side[i]) - len(answer_side[i]) if side == "left" else 0
        if selector.of == "prompt":
            text, offsets, before = prompts[i], prompt_side[i].offsets, padding
        else:
            text, offsets, before = (
                answers[i],
                answer_side[i].offsets,
                padding + len(prompt_side[i]),
            )
        try:
            found = naive(selector, text, offsets, subjects[i])
        except IndexError:
            found = []
        if not found:  # the first such row is the one that is shown
            with pytest.raises(ValueError, match=f"of row {i} ") as error:
                selector(batch)
            event("nothing")
            assert repr(text) in str(error.value)
            assert f"({len(offsets)} token" in str(error.value)
            return
        expected += [(i, before + token) for token in found]

    positions = selector(batch)
    event(type(selector).__name__)
    assert list(zip(positions.rows.tolist(), positions.columns.tolist(), strict=True)) == expected
    mask = positions.mask(batch)
    assert [tuple(place) for place in mask.nonzero().tolist()] == expected  # so none is twice
    assert mask.sum(dim=1).tolist() == positions.counts(batch).tolist()
    assert batch.attention_mask[mask].all()
    assert ((batch.labels[mask] == -100) == (selector.of == "prompt")).all()


@given(selector=selectors)
def test_a_selector_survives_being_written_and_read(selector):
    assert parse_positions(str(selector)) == selector
    assert str(parse_positions(str(selector))) == str(selector)
    assert parse_positions(selector) is selector


PEACOCK = "the peacock near the doors is old"
#          [CLS] the pea ##cock near the doors is old [SEP]
#          0     1   2   3      4    5   6     7  8   9


def peacock(**arguments) -> TokenizedBatch:
    """Left-padded by 8 below a longer row; the named spans are those of PEACOCK."""
    spans = [{}, {"subject": (4, 11), "middle": (6, 8)}]
    longer = ", ".join([PEACOCK] * 2)
    return tokenize(
        TOKENIZERS["word piece"](), [longer, PEACOCK], padding_side="left", spans=spans, **arguments
    )


def of_row(number: int, positions: Positions, batch: TokenizedBatch) -> list[int]:
    columns = positions.columns[positions.rows == number] - batch.prompt_start[number]
    return columns.tolist()


@pytest.mark.parametrize(
    ("on", "tokens"),
    [
        ("f3", [0, 1, 2]),
        ("first", [0]),
        ("last", [9]),
        ("l2", [8, 9]),
        ("f1+l2", [0, 8, 9]),
        ("f7+l7", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("f99", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("every", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("all", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (-2, [8]),
        ([4, 1, -1, 1, -9], [1, 4, 9]),
        ("4,-1", [4, 9]),
        ('substring:"peacock"', [3]),
        ('substring:"peacock" all', [2, 3]),
        ("substring:the", [1]),
        ("substring:the occurrence=1", [5]),
        ("substring:the occurrence=-1", [5]),
        ('substring:"r the d" all', [4, 5, 6]),
        ('substring:" doors " all', [6]),
    ],
)
def test_selectors_find_the_planted_tokens(on, tokens):
    batch = peacock()
    assert batch.prompt_start[1] > 0  # there is padding to be wrong about
    assert of_row(1, parse_positions(on)(batch), batch) == tokens


@pytest.mark.parametrize(
    ("on", "tokens"),
    [
        ("subject", [3]),
        ("span:subject all", [2, 3]),
        ("span:middle", [3]),  # starts and ends inside of tokens
        ("span:middle all", [2, 3]),
    ],
)
def test_a_span_selects_its_last_token_or_all_that_overlap_it(on, tokens):
    batch = tokenize(
        TOKENIZERS["word piece"](),
        [PEACOCK],
        spans=[{"subject": (4, 11), "middle": (6, 8)}],
    )
    assert of_row(0, parse_positions(on)(batch), batch) == tokens


@pytest.mark.parametrize("tokenizer", ["bpe", "bpe, trimmed offsets", "bpe with BOS"])
@pytest.mark.parametrize("start", [3, 4])
def test_a_leading_space_inside_or_outside_the_token_changes_nothing(tokenizer, start):
    text = "The key near the doors"
    batch = tokenize(TOKENIZERS[tokenizer](), [text], spans=[{"subject": (start, 7)}])
    (token,) = span("subject")(batch).columns.tolist()
    end_of_token = batch.offsets[0][token][1]
    assert end_of_token == 7
    space_inside = any(text[a] == " " for a, b in batch.offsets[0] if a < b)
    assert space_inside == (tokenizer != "bpe, trimmed offsets")


@pytest.mark.parametrize(
    ("n", "paper", "pyreft"),
    [
        (1, [0], None),
        (2, [0, 1], [0, 1]),
        (3, [0, 1, 2], [0, 2]),
        (5, [0, 1, 2, 3, 4], [0, 1, 3, 4]),
        (6, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
        (8, [0, 1, 2, 5, 6, 7], [0, 1, 2, 5, 6, 7]),
    ],
)
def test_f3_l3_on_a_short_prompt_follows_the_paper_or_pyreft(n, paper, pyreft):
    batch = tokenize(TOKENIZERS["bpe"](), ["T" * n], [" is"])  # "TT" is no token
    assert batch.prompt_end.tolist() == [n]
    assert first_last(3, 3)(batch).columns.tolist() == paper
    as_pyreft = parse_positions("f3+l3 rounding=pyreft")
    assert as_pyreft == first_last(3, 3, rounding="pyreft")
    if pyreft is None:
        with pytest.raises(ValueError, match=r"selects nothing in the prompt of row 0 \(1 token\)"):
            as_pyreft(batch)
    else:
        assert as_pyreft(batch).columns.tolist() == pyreft


@pytest.mark.parametrize(
    ("n", "tokens"),
    # Of last_position = n - 1: floor((n - 1) / 2) at most from either end, before that position.
    [
        (3, [0, 1]),
        (4, [0, 2]),
        (5, [0, 1, 2, 3]),
        (6, [0, 1, 3, 4]),
        (7, [0, 1, 2, 3, 4, 5]),
        (9, [0, 1, 2, 5, 6, 7]),
    ],
)
def test_f3_l3_may_leave_out_the_last_token_as_most_data_sets_of_pyreft_do(n, tokens):
    batch = tokenize(TOKENIZERS["bpe"](), ["T" * n], [" is"])
    selector = parse_positions("f3+l3 rounding=pyreft-but-last")
    assert selector(batch).columns.tolist() == tokens
    assert parse_positions(str(selector)) == selector


def test_alone_f3_takes_up_to_three_tokens_and_in_pyreft_up_to_half():
    batch = tokenize(TOKENIZERS["bpe"](), ["TTT"])
    assert first(3)(batch).columns.tolist() == last(5)(batch).columns.tolist() == [0, 1, 2]
    assert first_last(3, 0, rounding="pyreft")(batch).columns.tolist() == [0]
    assert first_last(0, 3, rounding="pyreft")(batch).columns.tolist() == [2]


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("on", ["f3+l3", "f1+l4 of=answer", "f3+l2 rounding=pyreft edit=x"])
def test_two_ends_select_together_what_the_pair_does_and_nothing_twice(on, n):
    pair = parse_positions(on)
    assert isinstance(pair, FirstLast)
    head, tail = pair.ends()
    for end in (head, tail):
        assert (end.of, end.edit) == (pair.of, pair.edit)
        assert parse_positions(str(end)) == end
    plain = tokenize(TOKENIZERS["bpe"](), ["T" * n], ["T" * n])
    batch = replace(plain, edits=(frozenset({"x"}),))
    if pair.rounding == "pyreft" and n == 1:  # nothing is selected there, by either
        for selector in (pair, head, tail):
            with pytest.raises(ValueError, match="selects nothing"):
                selector(batch)
        return
    columns = [selector(batch).columns.tolist() for selector in (head, tail)]
    start = n if pair.of == "answer" else 0
    half = n // 2 if pair.rounding == "pyreft" else n - n // 2
    assert columns == [
        [start + i for i in range(n) if i < min(pair.first, n // 2)],
        [start + i for i in range(n) if n - i <= min(pair.last, half)],
    ]
    assert columns[0] + columns[1] == pair(batch).columns.tolist()


def test_one_end_has_no_two():
    with pytest.raises(ValueError, match=r"'l3' has one end only"):
        last(3).ends()


def test_bos_is_the_first_token():
    with_bos = tokenize(TOKENIZERS["bpe with BOS"](), ["TT"])
    (column,) = first()(with_bos).columns.tolist()
    assert with_bos.input_ids[0, column] == TOKENIZERS["bpe with BOS"]().eos_token_id
    assert indices(1)(with_bos).columns.tolist() == [1]
    assert with_bos.offsets[0].tolist() == [[0, 0], [0, 1], [1, 2]]


def test_relative_to_the_answer_only_answer_tokens_are_selected():
    batch = tokenize(
        TOKENIZERS["word piece"](), ["the key", "key"], ["is old", "is old ."], padding_side="left"
    )
    # [CLS] the key [SEP] is old;  [CLS] key [SEP] is old .
    for on, columns in [
        ("first of=answer", [4, 3]),
        ("last of=answer", [5, 5]),
        ("indices:-2 of=answer", [4, 4]),
        ("substring:old of=answer", [5, 4]),
        ("every of=answer", [4, 5, 3, 4, 5]),
        ("last", [3, 2]),
    ]:
        assert parse_positions(on)(batch).columns.tolist() == columns


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (indices(10), r"indices:10: index 10 is out of range in the prompt of row 1 \(10 tokens\)"),
        (indices(0, -11), r"index -11 .* row 1 \(10 tokens\): 'the peacock near the doors"),
        (substring("keys"), "substring:\"keys\": 0 occurrences of 'keys' in the prompt of row 0"),
        (substring(",", occurrence=0), "0 occurrences of ',' in the prompt of row 1"),
        (substring("doors", occurrence=1), "1 occurrence of 'doors' in the prompt of row 1"),
        (span("subject"), r"no span 'subject' \(there are: none\) in the prompt of row 0"),
        (substring(" "), 'substring:" " selects nothing in the prompt of row 0'),
        (
            first(of="answer"),
            r"first of=answer selects nothing in the answer of row 0 \(0 tokens\)",
        ),
    ],
)
def test_a_selector_that_finds_nothing_shows_the_row(selector, message):
    with pytest.raises(ValueError, match=message):
        selector(peacock())


def test_a_missing_span_lists_the_present_ones_and_a_long_prompt_is_cut():
    prompt = "The key" * 100
    batch = tokenize(TOKENIZERS["bpe"](), [prompt], spans=[{"b": (0, 1), "a": (0, 1)}])
    with pytest.raises(ValueError, match=r"\(there are: a, b\) in .* … ") as error:
        span("c")(batch)
    assert len(str(error.value)) < 600 < len(prompt)


@pytest.mark.parametrize(
    ("on", "selector"),
    [
        ("f3+l3", first_last(3, 3)),
        (" f3 ", first(3)),
        ("f0+l3", last(3)),
        ("l1", last()),
        ("first", first()),
        ("last of=answer", last(of="answer")),
        ("subject", span("subject")),
        ("subject all", span("subject", all=True)),
        ("span:f3", span("f3")),
        ('span:"my subject"', span("my subject")),
        ("all", every()),
        ("span:all all", span("all", all=True)),
        ("-1", indices(-1)),
        ("indices:-1", indices(-1)),
        (-1, indices(-1)),
        (np.int64(-1), indices(-1)),
        ((0, -1), indices(0, -1)),
        (range(3), indices(0, 1, 2)),
        (r'substring:"a \"b\" \\ c\n" occurrence=2', substring('a "b" \\ c\n', occurrence=2)),
        ("substring:Tokyo all", substring("Tokyo", all=True)),
    ],
)
def test_text_and_numbers_are_read_as_selectors(on, selector):
    assert parse_positions(on) == selector


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (first_last(7, 7), "f7+l7"),
        (first(3), "f3"),
        (first(), "first"),
        (last(), "last"),
        (first_last(1, 1), "f1+l1"),
        (every(of="answer"), "every of=answer"),
        (indices(0, -1), "indices:0,-1"),
        (span("subject"), "subject"),
        # What means something else by itself, or nothing.
        (span("last"), "span:last"),
        (span("f3"), "span:f3"),
        (span("3"), "span:3"),
        (span("subject all"), 'span:"subject all"'),
        (span(" subject"), 'span:" subject"'),
        (span("my subject", all=True), 'span:"my subject" all'),
        (substring(" é", occurrence=1), 'substring:" é" occurrence=1'),
    ],
)
def test_the_text_of_a_selector_is_short(selector, text):
    assert str(selector) == text


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("f7+s7", "positions 'f7+s7': 'f7+s7' is neither a selector nor a name"),
        ("f3-l3", "positions 'f3-l3': write \"f3+l3\" for first and last tokens"),
        ("", "positions '': cannot be read; write \"f7+l7\""),
        ('"my subject"', "cannot be read"),
        ("f0", "first and last must be 0 or more, and not both 0, got 0, 0"),
        (
            "f3 rounding=up",
            'rounding must be "paper", "pyreft", "pyreft-but-last" or "paired", got \'up\'',
        ),
        ("f3 of=question", 'of must be "prompt" or "answer", got \'question\''),
        ("f3 all", "'all' is not an option here (options: of=, edit=, rounding=)"),
        ("subject all=yes", "'all=yes' is not an option here (options: of=, edit=, all)"),
        ("my subject", "'subject' is not an option here"),
        ("every of", "'of' is not an option here (options: of=, edit=)"),
        ("subject of=answer", 'named spans lie in the prompt; use substring(..., of="answer")'),
        ('span:""', "name must be the name of a span"),
        ('substring:""', "text must be what to look for"),
        ("substring:a occurrence=x", "positions 'substring:a occurrence=x': invalid literal"),
        ("indices:a", "positions 'indices:a': invalid literal"),
        ([], "indices must hold at least one index"),
    ],
)
def test_text_that_cannot_be_read_is_refused(on, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_positions(on)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("on", [1.5, None, [0, 1.5], True, ["f3"]])
def test_what_is_neither_text_nor_whole_numbers_is_refused(on):
    with pytest.raises(TypeError, match="positions must be text, whole numbers or a selector, got"):
        parse_positions(on)


def test_base_and_source_must_edit_equally_many_tokens_of_each_row():
    tokenizer = TOKENIZERS["word piece"]()
    base = tokenize(tokenizer, ["the key", "the peacock"], padding_side="left")
    source = tokenize(tokenizer, ["the doors is old", "the key"])
    check_alignment(last(2), last(2)(base), last(2)(source), base, source)
    check_alignment(last(2), indices(0, 1)(base), last(2)(source), base, source)
    with pytest.raises(ValueError, match=r"row 1: 5 tokens of the base .* and 4 of the") as error:
        base, source = (tokenize(tokenizer, ["key", b]) for b in ("the peacock", "the key"))
        check_alignment(every(), every()(base), every()(source), base, source)
    assert "base: the prompt of row 1 (5 tokens): 'the peacock'" in str(error.value)
    assert "source: the prompt of row 1 (4 tokens): 'the key'" in str(error.value)
    one = tokenize(tokenizer, ["the key"])
    with pytest.raises(ValueError, match="2 base rows, but 1 source rows"):
        check_alignment(last(), last()(base), last()(one), base, one)


@pytest.mark.parametrize(
    ("on", "right"),
    [(indices(0, 2), False), (indices(0), True), (indices(-2, -1), True), (first_last(1, 1), True)],
)
def test_tokens_counted_from_the_start_are_alike_in_prompts_of_one_length_alone(on, right):
    tokenizer = TOKENIZERS["word piece"]()
    base = tokenize(tokenizer, ["the key", "the key"], padding_side="left")
    for those, alike in ((["the box", "the box"], True), (["the box", "the doors is old"], right)):
        source = tokenize(tokenizer, those)
        if alike:
            check_alignment(on, on(base), on(source), base, source)
            continue
        with pytest.raises(ValueError, match=r"'indices:0,2' counts .* in row 1 the base has 4"):
            check_alignment(on, on(base), on(source), base, source)


def test_positions_and_batch_may_live_on_another_device():
    batch = tokenize(TOKENIZERS["bpe"](), ["The key"])
    positions = last()(batch)
    assert len(positions) == 1
    moved = positions.to("meta")
    assert moved.rows.is_meta
    assert moved.columns.is_meta
    assert not positions.rows.is_meta


def shown(prompts, on, tokenizer="word piece", **arguments):
    batch = tokenize(TOKENIZERS[tokenizer](), prompts, **arguments)
    return show(batch, parse_positions(on)(batch), TOKENIZERS[tokenizer]())


@pytest.mark.parametrize("side", ["left", "right"])
def test_show_marks_the_edited_tokens_in_the_text_as_it_was_given(side):
    result = shown(["The  Peacock is", "key"], "f2+l2", padding_side=side)
    assert str(result) == "0: ⟦[CLS]⟧⟦The⟧  Peacock ⟦is⟧⟦[SEP]⟧\n1: ⟦[CLS]⟧⟦key⟧⟦[SEP]⟧"
    nothing = Positions(*torch.zeros(2, 0, dtype=torch.long))
    batch = tokenize(TOKENIZERS["word piece"](), ["key."], padding_side=side)
    assert str(show(batch, nothing, TOKENIZERS["word piece"]())) == "0: [CLS]key.[SEP]"


def test_show_separates_the_answer_and_keeps_a_row_on_one_line():
    result = shown(["T\nT", "T"], "last of=answer", "bpe", answers=["T", "T"])
    assert str(result) == "0: T\\nT |⟦T⟧\n1: T |⟦T⟧"
    assert str(shown(["T"] * 11, "last", "bpe")).startswith(" 0: ⟦T⟧\n 1: ")


def test_show_merges_the_tokens_of_one_character():
    batch = tokenize(TOKENIZERS["bpe"](), ["T🦢 "])  # no sentence has this bird
    assert len(batch.offsets[0]) > 4
    assert str(shown(["T🦢 "], 1, "bpe")) == "0: T⟦🦢⟧ "
    assert str(shown(["T🦢 "], 3, "bpe")) == "0: T⟦🦢⟧ "
    assert str(shown(["key "], "first")) == "0: ⟦[CLS]⟧key[SEP] "


def test_in_a_notebook_tokens_are_marked_and_text_is_escaped():
    result = shown(["<b>T\n"], 0, "bpe", answers=["&"])._repr_html_()
    assert "<mark>&lt;</mark>b&gt;T↵\n</td><td>&amp;</td>" in result
    assert "<b>" not in result
    assert (
        shown(["T"], 0, "bpe")._repr_html_().endswith("<mark>T</mark></td><td></td></tr></table>")
    )


def test_a_selector_must_say_what_it_picks():
    with pytest.raises(TypeError, match="abstract"):
        PositionSelector()  # pyright: ignore[reportAbstractUsage]


@pytest.mark.parametrize(("name", "meant"), [("frist", "first"), ("subjct", "subject")])
def test_a_misspelt_name_is_met_with_the_nearest(tiny, name, meant):
    row = {"prompt": "The key", "spans": {"subject": [4, 7]}}
    with pytest.raises(ValueError, match=rf"no span '{name}'.* did you mean '{meant}'\?"):
        parse_positions(name)(encode(tiny("gpt2"), [row]))
    with pytest.raises(ValueError, match="no span 'verb'") as raised:
        parse_positions("verb")(encode(tiny("gpt2"), [row]))
    assert "did you mean" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "on"),
    [("last", "last edit=a"), ("first", first()), ("all", "every"), ("f1+l2", "f1+l2"), ("l1", -1)],
)
def test_a_span_that_is_called_as_other_tokens_is_not_passed_over(tiny, name, on):
    rows = [{"prompt": "The key near the doors", "spans": {name: [4, 7]}, "edits": "a"}]
    batch = encode(tiny("gpt2"), rows)
    # The span itself, and the last token by its number, are what they say.
    assert (
        span(name)(batch).columns.tolist()
        == parse_positions(f"span:{name}")(batch).columns.tolist()
        == [1]
    )
    if on == -1:
        assert parse_positions(on)(batch).columns.tolist() == [len(batch.offsets[0]) - 1]
        return
    with pytest.raises(ValueError, match=rf"write ri\.span\('{re.escape(name)}'\) for the span"):
        parse_positions(on)(batch)
    others = [row | {"spans": {"subject": [4, 7]}} for row in rows]
    assert len(parse_positions(on)(encode(tiny("gpt2"), others))) > 0


def test_the_name_of_an_edit_is_part_of_the_text():
    selector = parse_positions("f3+l3 rounding=pyreft edit=formal-1.5")
    assert selector.edit == "formal-1.5" and selector != parse_positions("f3+l3 rounding=pyreft")
    assert parse_positions(str(selector)) == selector
    assert str(parse_positions("subject edit=a")) == "subject edit=a"
    with pytest.raises(ValueError, match="the name of an edit must be letters, digits"):
        parse_positions("last edit=")
