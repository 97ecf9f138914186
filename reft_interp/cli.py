"""The command line: `reft-interp demo`, `das`, `sweep`, `train`, `compare`, `generate`, `doctor`.

Imports are inside the commands, so that `--help` answers at once.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # Brackets of a study file are no markup.
    rich_markup_mode=None,
)

_MODEL = typer.Option(help="A hub name, a folder, a GGUF file, or smollm2.")


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"reft-interp {version('reft-interp')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Train an intervention on a hooked language model, then probe what its subspace encodes."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report; made if needed.")] = Path(
        "report"
    ),
    data: Annotated[
        str | None,
        typer.Option(
            help="SST-2 as a folder of tsv files or a hub name, for the ReFTs to learn; "
            "by default a task that needs no files."
        ),
    ] = None,
    model: Annotated[str, _MODEL] = "smollm2",
    layer: Annotated[
        int | None,
        typer.Option(min=0, help="Where, counted from 0; two fifths of the way up by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data, starts and controls.")] = 0,
) -> None:
    """Find a causal variable by DAS, teach two ReFTs a task, probe both, write a report."""
    from reft_interp.demo import run_demo

    _or_exit(lambda: run_demo(out, data=data, model=model, layer=layer, seed=seed))


@app.command()
def das(
    layer: Annotated[int | None, typer.Option(min=0, help="Where to look, counted from 0.")] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help='Which tokens: a span of the pairs, "last", "f3+l3", ...', show_default="subject"
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="How many directions.", show_default="1")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LAYER,TOKENS,RANK",
            help="Instead of these three, once for each of several variables that are searched "
            "together: pairs with a source for each.",
        ),
    ] = None,
    component: Annotated[str, typer.Option(help="Of the model.")] = "resid_post",
    counterfactuals: Annotated[
        str,
        typer.Option(help='A folder of pairs (Counterfactuals.save), or "number agreement".'),
    ] = "number agreement",
    pairs: Annotated[
        int | None,
        typer.Option(min=1, help="How many are made, where they are made.", show_default="600"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pairs.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 5e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 16,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, help="How many searches, and as many with each control's labels or model."
        ),
    ] = 3,
    minimum_accuracy: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of prompts that the model must get right; else it stops. Pairs that a task "
            "made without a model are not asked for it.",
        ),
    ] = 0.7,
    out: Annotated[Path, typer.Option(help="Folder for the report; made if needed.")] = Path("das"),
    model: Annotated[str, _MODEL] = "smollm2",
    seed: Annotated[int, typer.Option(help="Of the pairs, and of the first search.")] = 0,
) -> None:
    """Find a subspace by DAS, with every control, and write a report.

    A claim holds where it is above no intervention, random subspaces, shuffled labels and an
    untrained copy of the model; the whole vector and changes of the same size stand beside it.
    This takes some minutes.

    For example: reft-interp das --layer 12 --on subject --rank 4

    Of several variables (pairs made with `own_sources=True`):
    reft-interp das --counterfactuals pairs --variable left=0,a,8 --variable right=0,b,8
    """
    from reft_interp.evidence_report import run_das

    if (layer is None) == (not variable):
        raise typer.BadParameter(
            "give --layer, or --variable for each of several variables"
            + ("" if layer is None else ", not both")
        )
    for name, given in (("on", on), ("rank", rank), ("pairs", pairs)):
        if variable and given is not None:
            raise typer.BadParameter(
                f"--{name} is of one variable; beside --variable it would do nothing"
            )
    _or_exit(
        lambda: run_das(
            out,
            model=model,
            component=component,
            layer=layer,
            on=on or "subject",
            rank=rank or 1,
            counterfactuals=counterfactuals,
            pairs=pairs or 600,
            seed=seed,
            variables=variable or (),
            seeds=seeds,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            minimum_accuracy=minimum_accuracy,
        )
    )


@app.command()
def sweep(
    study: Annotated[Path, typer.Argument(help="A YAML file, as above.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the sweep; a sweep that was killed goes on there.")
    ] = Path("sweep"),
) -> None:
    """Train DAS for every combination of layers, tokens, ranks and seeds of a study.

    A study file has keys as in this example, and `heads`. Each may be left out: then layers are
    all, tokens [last], ranks [1], seeds [0], and the others as they stand here.

    \b
    model: smollm2
    counterfactuals: number agreement   # or a folder of pairs
    pairs: 600                          # how many are made, where they are made
    components: [resid_post]
    layers: [2, 11, 20, 29]             # or all
    tokens: [subject, last]
    ranks: [1, 4]
    seeds: [0, 1]                       # of the searches
    epochs: 3
    learning_rate: 0.005
    batch_size: 16
    seed: 0                             # of the pairs
    screen: 1.0                         # share of the places that are searched
    minimum_accuracy: 0.7               # share of prompts that the model must get right

    With `components: [z]` and `heads: all` (or some numbers), every attention head is searched by
    itself. Every
    finished cell is on disk at once. Several processes may run the same sweep.
    """
    from reft_interp.models import load_model
    from reft_interp.study import Study
    from reft_interp.sweeps import sweep as run_sweep
    from reft_interp.whole_files import check_writable

    def job() -> None:
        plan = Study.read(study)
        check_writable(out)
        given = plan.read_pairs()  # a bad folder is said before a model is loaded
        bridge = load_model(plan.model)
        pairs = given or plan.make_pairs(bridge)
        cells = plan.screened_cells(bridge, pairs, out)
        found = run_sweep(bridge, pairs, cells, out, minimum_accuracy=plan.minimum_accuracy)
        typer.echo(str(found))
        table, picture = found.save()
        typer.echo(f"The table is in {table}, a heat map in {picture}")

    _or_exit(job)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="JSON, JSON lines, CSV or parquet: prompt, answer.")],
    out: Annotated[Path, typer.Option(help="Folder for what is trained.")] = Path("reft"),
    method: Annotated[
        str, typer.Option(help="LoReFT, DiReFT, NoReFT, ConsReFT or LobiReFT.")
    ] = "LoReFT",
    rank: Annotated[int, typer.Option(min=1, help="How many directions at each layer.")] = 4,
    layers: Annotated[str, typer.Option(help='"all", or numbers from 0, as 8,16,24.')] = "all",
    on: Annotated[str, typer.Option(help="Which tokens of the prompt.")] = "f3+l3",
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 4e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 16,
    held_out: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the prompts to score on.")
    ] = 0.1,
    model: Annotated[str, _MODEL] = "smollm2",
    seed: Annotated[int, typer.Option(help="Of starts, order and what is held out.")] = 0,
) -> None:
    """Train a ReFT on your own rows, and score it on some that are held out.

    The model's end-of-text token is put after each answer, so that continuations end.

    For example: reft-interp train rows.jsonl --out my_reft --layers 8,16,24 --on l3
    """
    from reft_interp.finetuning_jobs import run_train

    _or_exit(
        lambda: run_train(
            data, out, method=method, rank=rank, layers=layers, on=on, epochs=epochs,
            learning_rate=learning_rate, batch_size=batch_size, held_out=held_out, model=model,
            seed=seed, say=typer.echo,
        )
    )  # fmt: skip


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(help="What `train` wrote.")],
    prompts: Annotated[list[str], typer.Argument(help="One or several texts.")],
    model: Annotated[
        str | None, typer.Option(help="By default the one that it was trained on.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 40,
    every_token: Annotated[
        bool, typer.Option(help="Edit each new token too, not the prompt alone.")
    ] = False,
    edits: Annotated[
        str | None,
        typer.Option(help='Of composed edits, the names of those wanted, as a,b; "" for none.'),
    ] = None,
) -> None:
    """Continue prompts with a trained intervention in place.

    For example: reft-interp generate my_reft "The capital of France is"
    """
    from reft_interp.finetuning_jobs import run_generate

    _or_exit(
        lambda: run_generate(
            folder, prompts, model=model, tokens=tokens, every=every_token, edits=edits,
            say=typer.echo,
        )
    )  # fmt: skip


@app.command()
def compare(
    suite: Annotated[
        str, typer.Argument(help="commonsense, arithmetic, mawps, or glue/sst2 and its like.")
    ],
    data: Annotated[str, typer.Option(help="Its folder, or a dataset of the hub.")],
    out: Annotated[
        Path, typer.Option(help="Folder; a comparison that was killed goes on there.")
    ] = Path("comparison"),
    methods: Annotated[
        str, typer.Option(help="Names with commas between.")
    ] = "LoReFT,DiReFT,LoRA,prompt tuning",
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 16,
    trials: Annotated[int, typer.Option(min=1, help="Learning rates that each method tries.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each method.")] = 3,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows at most.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Rows of each test set at most.")] = None,
    development: Annotated[int, typer.Option(min=1, help="Rows to tune on at most.")] = 200,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens after which an encoder's texts are cut.")
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Ask what the ReFTs' subspaces encode, too, as a report."),
    ] = False,
    model: Annotated[str, _MODEL] = "smollm2",
) -> None:
    """Compare ReFTs with other ways to finetune, each with the same steps, trials and seeds.

    Names: LoReFT, DiReFT, NoReFT, ConsReFT, LobiReFT, RED, LoRA, DoRA, "LoRA and LoReFT", prefix
    tuning, prompt tuning, (IA)³, BitFit, linear head, few-shot prompt. The untouched model is
    always there. (Instructions are compared in Python, where a judge can be asked: `win_rate`.)
    An encoder, as --model roberta-base, gets a classifier's head, and the table shows what the head
    alone gives, and the most frequent answer.

    With `--probe` the folder gets a page, probe/report.html: whether the label can be read in each
    ReFT's subspace, whether seeds and methods write the same one, how much of LoRA's effect lies in
    it, and whether DAS finds it, each beside random subspaces. DAS is trained at every place that a
    ReFT edits, which takes minutes.

    For example: reft-interp compare glue/sst2 --data glue --rows 1000 --test 300 --probe
    """
    from reft_interp.finetuning_jobs import run_compare

    _or_exit(
        lambda: run_compare(
            suite, data, out, methods=[name.strip() for name in methods.split(",")], steps=steps,
            batch_size=batch_size, trials=trials, seeds=seeds, train=rows, test=test,
            development=development, max_length=max_length, probe=probe, model=model,
            say=typer.echo,
        )
    )  # fmt: skip


@app.command()
def doctor() -> None:
    """Print versions, devices, the model cache, and what works on the embedded model."""
    from reft_interp.models import doctor as diagnose

    diagnosis = diagnose()
    typer.echo(str(diagnosis))
    raise typer.Exit(0 if diagnosis.ok else 1)


def _or_exit(job: Callable[[], object]) -> None:
    """A mistake of the user's is a sentence on the screen, not a traceback; and so are libraries
    that don't work together."""
    from reft_interp.models.versions import BrokenVersions

    try:
        job()
    except (ValueError, TypeError, OSError, ImportError, BrokenVersions) as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point of the `reft-interp` command."""
    app()
