"""Compare ways to finetune a model on a suite, each with the same budget."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.runtime.context import context_length
from reft_interp.runtime.running import is_causal
from reft_interp.sweeps.comparison import MethodComparison, summarize
from reft_interp.sweeps.comparison_run import Budget, ComparisonRun
from reft_interp.sweeps.named_methods import named_method
from reft_interp.tasks.suites import Suite
from reft_interp.training.class_finetuning import HeadAlone
from reft_interp.training.finetuning import FinetuningMethod
from reft_interp.training.processes import check_alone
from reft_interp.training.prompting import MostFrequentAnswer, Untouched


def compare(
    model: TransformerBridge,
    suite: Suite,
    methods: Sequence[str | FinetuningMethod] = ("LoReFT", "DiReFT", "LoRA"),
    *,
    budget: Budget | None = None,
    folder: str | Path | None = None,
    max_length: int | None = None,
    progress: bool = True,
) -> MethodComparison:
    """Train, tune and test methods on a suite: one table, the untouched model always in it.

    A decoder answers in words. An encoder (BERT, RoBERTa) gets the head of `Classifier` on the
    first token, as Wu et al. 2024 run GLUE (arXiv:2404.03592, section 4.5); the head is trained
    beside whatever a method trains, and begins the same for all methods with the same seed.

    Every method trains on `suite.train` for the same number of steps; the one setting that is
    tuned (its learning rate) takes the value with the lowest loss on `suite.development` among as
    many values as any other method tries: where one has fewer than `budget.trials`, the others try
    no more, and a warning says so. Test rows are looked at once, by those that are reported.
    Answers are generated greedily by all methods: the likeliest token each time, until one of those
    that the model's `generation_config` ends at, without the beams and penalties of repetition that
    it may ask for. They are scored by the suite's metric; the table says in how many outputs no
    answer was found (`unparsed`), which is wrong, or a guess in a correlation. An error of one
    method is recorded in the table, and the others go on.

    The dropout of the model's own configuration is off in all trainings, LoRA's and its like
    included, as no ReFT is trained under it; a method's own, as `lora(dropout=0.05)`, is on.

    An encoder's answers are the rows' `choices`, the same in all of them, or scores where `label`
    is a float (STS-B); what is tuned by, and measured, is the cross-entropy of the classes in nats
    a row, or the squared error. In place of the untouched model, which says nothing without a head,
    "head alone" (the head on its frozen states) and "most frequent answer" are always there. The
    last step's weights are tested; `fit_classifier` keeps the best epoch's.

    Args:
        model: a TransformerBridge, as `load_model` gives it: a decoder or an encoder.
        suite: as `tasks.suites.glue("sst2", folder)`; `suite.select(...)` makes it smaller.
        methods: names (see `named_methods.NAMES`; ReFTs have the suite's recipe), or methods:
            `ReFT(LoReFT(rank=8), layers=(8, 16), on="l4")`, `lora(16)`, `FewShot(4)`.
        budget: steps, rows a step, trials, seeds.
        folder: where everything is written as it is found: a comparison that was killed goes on
            there, and methods that failed are run again. Several processes that are started by
            themselves (not by torchrun) share one, each with methods of its own. A finished one is
            read back by the same call, which then trains nothing. By default a folder that is
            temporary.
        max_length: tokens after which an encoder's texts are cut, of a pair the longer one; the
            paper's is 256 on GLUE. By default none is, and a row that is too long is an error.
        progress: show a progress bar.

    Raises:
        ValueError: an unknown name, two methods of one name, one that generates text on an encoder,
            a suite without rows that are needed or with one that is too long for the model (a
            prompt with its answer, or with the new tokens where positions are learned; the texts of
            an encoder), a suite whose answers are no classes on an encoder, a folder that holds
            another comparison, or processes that torchrun or `accelerate launch` started together.
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
    if isinstance(methods, str | FinetuningMethod):
        raise TypeError(f"methods must be several, as [{methods!r}], got {methods!r}")
    _check_max_length(model, max_length)
    budget = budget or Budget()
    if not isinstance(budget, Budget):
        raise TypeError(f"budget must be a Budget, as Budget(steps=60), got {budget!r}")
    given = [named_method(one, suite.recipe, model) if isinstance(one, str) else one
             for one in methods]  # fmt: skip
    for baseline in [Untouched] if is_causal(model) else [HeadAlone, MostFrequentAnswer]:
        if not any(isinstance(method, baseline) for method in given):
            given = [baseline(), *given]
    for method in given:
        if not isinstance(method, FinetuningMethod):
            raise TypeError(
                f"methods must be names or methods, as ReFT(LoReFT(rank=4), layers=(8, 12), "
                f'on="last"), got {method!r}'
            )
        method.check_model(model)
    where = Path(tempfile.mkdtemp(prefix="comparison-")) if folder is None else Path(folder)
    run = ComparisonRun(model, suite, given, budget, where, max_length)
    with tqdm(total=len(given), disable=not progress, desc=suite.name) as bar:
        run.run(bar)
    parameters = sum(p.numel() for p in model.original_model.parameters())
    return summarize(where, suite, run.finished(), parameters, budget.steps)


def _check_max_length(model: TransformerBridge, max_length: int | None) -> None:
    if max_length is None:
        return
    if is_causal(model):
        raise ValueError(
            f"max_length cuts an encoder's texts, and {model.cfg.model_name} is a decoder, whose "
            "prompt ends with what is asked: truncate_prompts(model, rows, max_length, "
            f'truncation_side="left") cuts those, got {max_length}'
        )
    most = context_length(model)
    if max_length < 1 or (most is not None and max_length > most):
        raise ValueError(
            f"max_length must be between 1 and the {most} tokens that {model.cfg.model_name} can "
            f"read, got {max_length}"
        )
