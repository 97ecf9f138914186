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
        (r"$3{,}000$", "3000"),
        (r"\$1,234.50", "1234.50"),
        (r"\boxed{42}, since $6 \times 7 = 42$ and not 43", "42"),
        (r"First \boxed{3}, so \boxed{$4$}.", "4"),
        (r"\boxed{12\text{ apples of }15}", "15"),
        (r"\boxed{x = 7}", "7"),
        (r"\$\frac{7}{2}", "3.5"),
        (r"\frac{1}{2}", "0.5"),
        (r"-\dfrac{3}{4}", "-0.75"),
        (r"2\frac{1}{2}", "2.5"),
        ("2 1/2", "2.5"),
        ("-2 1/2 cups", "-2.5"),
        ("They took 5 3/2", "1.5"),
        ("1.5 1/2", "0.5"),
        ("20e", "20"),
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
    ("text", "value"),
    [
        ("1e3", 1000),
        ("1.5E-3 m", 0.0015),
        ("3 x 10^4", 30_000),
        ("3.5*10**4", 35_000),
        (r"$3 \times 10^{4}$", 30_000),
        (r"-2 \cdot 10^{-2}", -0.02),
        ("5 × 10^−3", 0.005),
        ("It is 10^4.", 10_000),
        ("2 x 10 = 20", 20),
    ],
)
def test_powers_of_ten(text, value):
    assert float(last_number(text) or "nan") == pytest.approx(value)


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
        ("The answer is **D**", "D"),
        ("The answer is: **(D)**", "D"),
        (r"The answer is $\boxed{D}$.", "D"),
        (r"So $\boxed{\textbf{(D)}\ 35}$", "D"),
        ("Option A: 4 + 3 = 7. Option B: 5 + 7 = 12. The answer is 12.", None),
        ("Option B: $5. The answer is $5.", None),
        ("It is 12, which is option B.", "B"),
        ("The answer is B because 5 > 3.", "B"),
        ("The correct option is D since 12/4 = 3", "D"),
        ("The answer is A, as 2 + 2 = 4.", "A"),
        ("The answer is A as 2 + 2 = 4.", "A"),
        ("The answer is C which is 30", "C"),
        ("Answer is E - 10", "E"),
        ("So the answer is D = 12.", "D"),
        ("The answer is D 12", "D"),
        ("The answer is E $10", "E"),
        ("Option C is correct, 3 * 4 = 12", "C"),
        ("The answer is B (12 apples)", "B"),
        ("The answer is not B but (D).", "D"),
        ("The answer is a 5", None),
        ("The answer is A lot more than 7", None),
        ("Option B is 5 + 7 = 12. The answer is 12.", None),
        ("Option B is 12, Option A is 7, so 12", None),
        ("The answer is B + 2 = 7", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice(text, letter):
    assert stated_letter(text) == letter
