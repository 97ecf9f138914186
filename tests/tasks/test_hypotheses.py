"""Wrong hypotheses of a task: what they imply, by hand; `test_trained_tasks` has trained models."""

import pytest

from reft_interp import CausalModel
from reft_interp.causal.rows import rows_of
from reft_interp.tasks import CausalTask, kept_input_hypothesis

WORDS = ("zero", "one", "two", "three")


@pytest.mark.parametrize("template", ["{x} {y} is", "{x} {y}, so {half} is"])
def test_words_of_a_task_are_those_of_its_hypothesis_as_far_as_it_has_the_variables(template):
    model = CausalModel(
        {"x": range(4), "y": range(4), "half": range(7), "sum": range(0, 14, 2)},
        {"half": lambda x, y: x + y, "sum": lambda half: 2 * half},
    )
    words = {"x": WORDS.__getitem__, "half": lambda value: f"h{value}", "sum": lambda v: f"={v}"}
    task = CausalTask("sums", model, "sum", [template], words=words, balanced=("half",))
    kept = kept_input_hypothesis(task, "x")
    assert set(kept.words) == {"x", "sum", "kept_x"} | ({"half"} if "half" in template else set())
    for row in rows_of(kept.counterfactuals(None, "kept_x", n=12).train):
        x, y = int(row["base_x"]), int(row["base_y"])
        assert row["base"].startswith(f"{WORDS[x]} {y}")
        assert ("half" not in template) or f"so h{x + y} is" in row["base"]
        assert row["base_answer"] == f" ={2 * (x + y)}"
        assert row["label"] == f" ={2 * (int(row['source_x']) + y)}"
    # Where another template names the variable, it is written as the input is.
    written = kept.write({"x": 3, "y": 1}, "{kept_x} and {y} is")
    assert written.text == "three and 1 is" and written.answer == " =8"


def test_a_variable_of_the_hypothesis_is_not_written_over():
    model = CausalModel(
        {"x": range(2), "kept_x": range(2), "sum": range(3)},
        {"sum": lambda x, kept_x: x + kept_x},
    )
    task = CausalTask("sums", model, "sum", ["{x} {kept_x} is"], balanced=("sum",))
    with pytest.raises(ValueError, match="would be 'kept_x', which sums has already"):
        kept_input_hypothesis(task, "x")
