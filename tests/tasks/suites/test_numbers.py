"""Which number, or letter, counts as the answer of a text."""

import pytest

from reft_interp.tasks.suites.numbers import last_number, stated_letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 72.", "72"),
        ("The answer is 72", "72"),
        ("so 3 + 4 = 7 apples.", "7"),
        ("The answer is 5 apples, and not 6 pears", "6"),
        ("The answer is 5 apples", "5"),
        ("1,000", "1000"),
        ("It is 1,234,567.89 in all", "1234567.89"),
        ("1, 2, 3", "3"),
        ("1,2", "2"),
        ("$5.50", "5.50"),
        ("$ 5.50", "5.50"),
        ("5.50$", "5.50"),
        ("costs $1,000.", "1000"),
        ("-3", "-3"),
        ("−3", "-3"),
        ("-$3.20", "-3.20"),
        ("$-3.20", "-3.20"),
        ("x=-3", "-3"),
        ("(-3)", "-3"),
        ("10-3", "3"),
        ("10 - 3", "3"),
        ("(4+6)-3", "3"),
        ("3/4", "0.75"),
        ("The answer is 3/4.", "0.75"),
        ("The answer is -1/2", "-0.5"),
        ("36 * 2/3 = 24", "24"),
        ("4/0", "4"),
        ("50%", "50"),
        ("20km", "20"),
        ("H2O", "2"),
        (".5", ".5"),
        ("in all.5", "5"),
        ("72..", "72"),
        ("**72**", "72"),
        (r"\boxed{72}", "72"),
        ("15.0", "15.0"),
        ("The answer is seventy-two.", None),
        ("", None),
        ("...", None),
        ("- $", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number
    if number is not None:
        float(number)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (D).", "D"),
        ("The answer is D", "D"),
        ("The answer is: D.", "D"),
        ("the correct option is (b)", "B"),
        ("Answer: C", "C"),
        ("The answer is (A) 23.65", "A"),
        ("Not option (A). The answer is (B).", "B"),
        ("the answer is (E)\nThe answer is (C)", "C"),
        ("D", "D"),
        (" (D)", "D"),
        ("D) 35", "D"),
        ("(D) 35", "D"),
        ("So 150 is reached, which is (D).", "D"),
        ("Ann and Bob each have 5. The answer is 5.", None),
        ("A: There were 7 crayons. The answer is 4.", None),
        ("Let A = 5 and B = 7, then A + B = 12.", None),
        ("The answer is A lot of money", None),
        ("The answer is 5 (five)", None),
        ("Answer Choices: 12", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice(text, letter):
    assert stated_letter(text) == letter
