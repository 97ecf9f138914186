"""Compare ways to finetune a model on a suite, each with the same budget."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.runtime.running import is_causal
from reft_interp.sweeps.comparison import MethodComparison, summarize
from reft_interp.sweeps.comparison_run import Budget, ComparisonRun
from reft_interp.sweeps.named_methods import named_method
from reft_interp.tasks.suites import Suite
from reft_interp.training.finetuning import FinetuningMethod
from reft_interp.training.processes import check_alone
from reft_interp.training.prompting import Untouched


def compare(
    model: TransformerBridge,
    suite: Suite,
    methods: Sequence[str | FinetuningMethod] = ("LoReFT", "DiReFT", "LoRA"),
    *,
    budget: Budget | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> MethodComparison:
    """Train, tune and test methods on a suite: one table, the untouched model always in it.

    Every method trains on `suite.train` for the same number of steps; the one setting that is
    tuned (its learning rate) takes the value with the lowest loss on `suite.development` among as
    many values as any other method tries; test rows are looked at once, by those that are
    reported. Answers are generated greedily and scored by the suite's metric; the table says in how
    many outputs no answer was found (`unparsed`), which is wrong, or a guess in a correlation. An
    error of one method is recorded in the table, and the others go on.

    Args:
        model: a TransformerBridge, as `load_model` gives it.
        suite: as `tasks.suites.glue("sst2", folder)`; `suite.select(...)` makes it smaller.
        methods: names (see `named_methods.NAMES`; ReFTs have the suite's recipe), or methods:
            `ReFT(LoReFT(rank=8), layers=(8, 16), on="l4")`, `lora(16)`, `FewShot(4)`.
        budget: steps, rows a step, trials, seeds.
        folder: where everything is written as it is found: a comparison that was killed goes on
            there, and methods that failed are run again. Several processes that are started by
            themselves (not by torchrun) share one, each with methods of its own. A finished one is
            read back by the same call, which then trains nothing. By default a folder that is
            temporary.
        progress: show a progress bar.

    Raises:
        ValueError: an encoder, which generates nothing; an unknown name, two methods of one name, a
            suite without rows that are needed or with one that is too long for the model (a prompt
            with its answer, or with the new tokens where positions are learned), a folder that
            holds another comparison, or processes that torchrun or `accelerate launch` started
            together.
        TypeError: what is no suite, or a single method.
    """
    check_alone(
        "compare",
        "start it with python alone, several times with the same folder= to share the methods "
        "among processes, each on the device of its CUDA_VISIBLE_DEVICES",
    )
    if not isinstance(suite, Suite):
        raise TypeError(
            f"suite must be a Suite, got {type(suite).__name__}: tasks.suites.labelled_suite(task) "
            "makes one of rows with answers"
        )
    if not is_causal(model):
        raise ValueError(
            f"model must be a decoder, as answers are generated; {model.cfg.model_name} is an "
            "encoder, which is trained with fit_classifier(model, suite, ...)"
        )
    if isinstance(methods, str | FinetuningMethod):
        raise TypeError(f"methods must be several, as [{methods!r}], got {methods!r}")
    budget = budget or Budget()
    given = [named_method(one, suite.recipe, model) if isinstance(one, str) else one
             for one in methods]  # fmt: skip
    if not any(isinstance(method, Untouched) for method in given):
        given = [Untouched(), *given]
    where = Path(tempfile.mkdtemp(prefix="comparison-")) if folder is None else Path(folder)
    run = ComparisonRun(model, suite, given, budget, where)
    with tqdm(total=len(given), disable=not progress, desc=suite.name) as bar:
        run.run(bar)
    parameters = sum(p.numel() for p in model.original_model.parameters())
    return summarize(where, suite, run.finished(), parameters, budget.steps)
