"""Whether a model does what pairs ask of it, before anybody looks for how it does."""

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.interchanges import rows_of_one_source
from reft_interp.evaluation import Accuracy, answers_correctly
from reft_interp.evaluation.minimum_accuracy import check_accuracy, check_share
from reft_interp.models import identify


def task_accuracy(model: TransformerBridge, pairs: Counterfactuals) -> Accuracy:
    """How many of the held-out bases a model answers right without an intervention."""
    rows = [
        {"prompt": row["base"], "answer": row["base_answer"], "choices": row["choices"]}
        for row in pairs.test.to_list()
    ]
    right = answers_correctly(model, rows)
    return Accuracy(int(right.sum()), len(right))


def check_does_task(
    model: TransformerBridge, pairs: Counterfactuals, minimum_accuracy: float | int
) -> Accuracy | None:
    """Raise where pairs have several sources, or as `check_gets_bases_right`.

    Returns:
        As `check_gets_bases_right`.

    Raises:
        ValueError: several sources; as `check_gets_bases_right`.
    """
    rows_of_one_source(pairs.test)
    return check_gets_bases_right(model, pairs, minimum_accuracy)


def check_gets_bases_right(
    model: TransformerBridge, pairs: Counterfactuals, minimum_accuracy: float | int
) -> Accuracy | None:
    """Raise where a model gets too few of the held-out bases right.

    It is not asked again where it was when the pairs were made, nor where a task was told to draw
    them without asking.

    Args:
        model: the hooked model.
        pairs: whose `test` it is asked for.
        minimum_accuracy: the share that it must get right; 0 asks nothing.

    Returns:
        What it gets right; None where it was not asked.

    Raises:
        ValueError: it gets less, or `minimum_accuracy` is no share.
    """
    check_share("minimum_accuracy", minimum_accuracy)
    if pairs.model_accuracy is None:
        settled = pairs.seed is not None
    else:
        settled = pairs.model == identify(model).name
    if settled or minimum_accuracy == 0:
        return None
    found = task_accuracy(model, pairs)
    check_accuracy(
        found,
        minimum_accuracy,
        len(pairs.test[0]["choices"]),
        " (these pairs were not made of what this model gets right); a lower minimum_accuracy, "
        "also a key of a study and --minimum-accuracy of the command line, looks all the same",
    )
    return found
