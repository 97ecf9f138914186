"""What the commands `train`, `compare` and `generate` do."""

from collections.abc import Callable, Sequence
from pathlib import Path

from reft_interp.interventions import INTERVENTIONS, Intervention
from reft_interp.models import identify, load_model
from reft_interp.positions import parse_positions
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.context import check_fit
from reft_interp.runtime.saving import read_model_name
from reft_interp.sites import Site
from reft_interp.sweeps import Budget, compare
from reft_interp.tasks.own_rows import read_rows
from reft_interp.tasks.suites.named import named_suite
from reft_interp.tasks.suites.reading import hold_out
from reft_interp.training import fit_reft
from reft_interp.training.finetuning import end_of_text, plain_rows
from reft_interp.training.hyperparameters import check_hyperparameters
from reft_interp.whole_files import check_writable

TRAINABLE = ("LoReFT", "DiReFT", "NoReFT", "ConsReFT", "LobiReFT")
Say = Callable[[str], None]


def run_train(
    data: Path,
    out: Path,
    *,
    method: str,
    rank: int,
    layers: str,
    on: str,
    epochs: int | float,
    learning_rate: float,
    batch_size: int,
    held_out: float,
    model: str,
    seed: int,
    say: Say,
) -> None:
    """Train a ReFT on rows of a file, save it, and say what it does to held-out rows.

    Raises:
        ValueError: a bad file or argument (it is named), before a model is loaded where it can be
            known.
    """
    if method not in TRAINABLE:
        raise ValueError(f"method must be one of {', '.join(TRAINABLE)}, got {method!r}")
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out must be at least 0 and below 1, got {held_out}")
    rows = read_rows(data)
    prompts = len(set(rows["prompt"]))
    kept = round(held_out * prompts)
    if held_out and not 1 <= kept < prompts:
        raise ValueError(
            f"held_out: {held_out:g} of {prompts} different prompts leaves none on one side; "
            f"{_share(prompts)}"
        )
    wanted = _numbers(layers)
    selector = parse_positions(on)
    check_hyperparameters(
        epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed
    )
    template: Intervention = INTERVENTIONS[method](rank=rank)  # pyright: ignore[reportCallIssue]
    check_writable(out)
    bridge = load_model(model)
    end = end_of_text(bridge)
    # Before rows are mixed, so that one that is too long is named by its place in the file.
    ended = [{**row, "answer": row["answer"] + end} for row in plain_rows(rows)]
    check_fit(bridge, ended, str(data), answers=True)
    # By prompts: one that stands twice would be trained on and scored.
    trained, scored = hold_out(rows.to_list(), kept, seed, str(data.name))
    depth = int(bridge.cfg.n_layers)
    # With its end, so that a continuation ends by itself.
    train = [{**row, "answer": row["answer"] + end} for row in trained]
    found = fit_reft(
        bridge, train, template, [Site("resid_post", i) for i in wanted or range(depth)],
        selector, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    found.save(out)
    say(found.intervened.explain().splitlines()[0])
    say(f"{found.intervened.trained_parameters:,} numbers were trained; they are in {out}")
    if scored:
        say(str(found.evaluate(scored)))


def _share(prompts: int) -> str:
    """Which share of so many different prompts can be held out, as advice."""
    trained_on_all = "0 (--held-out 0) trains on all rows and scores none"
    if prompts < 2:
        return trained_on_all
    return f"{1 / prompts:.2g} would hold out one of them, {trained_on_all}"


def run_compare(
    suite: str,
    data: str,
    out: Path,
    *,
    methods: Sequence[str],
    steps: int,
    batch_size: int,
    trials: int,
    seeds: int,
    train: int | None,
    test: int | None,
    development: int,
    max_length: int | None,
    probe: bool,
    model: str,
    say: Say,
) -> None:
    """Compare methods on a suite, and write its table and figure, and a page on its subspaces.

    Raises:
        ValueError: a bad argument (it is named): numbers below 1, an unknown suite or method, data
            that are not there or of another format; as `compare`.
    """
    budget = Budget(steps, batch_size, trials, tuple(range(seeds)))
    chosen = named_suite(suite, data)
    rows = len(chosen.train) if chosen.train is not None else None
    held = len(chosen.development) if chosen.development is not None else None
    chosen = chosen.select(
        None if train is None or rows is None else min(train, rows),
        test,
        n_development=None if held is None else min(development, held),
    )
    say(str(chosen))
    if held is not None and held < development:
        say(f"{chosen.name} has {held} rows to tune on, fewer than --development {development}")
    check_writable(out)
    bridge = load_model(model)
    found = compare(bridge, chosen, methods, budget=budget, folder=out, max_length=max_length)
    say(str(found))
    table, picture = found.save()
    say(f"The table is in {table}, a figure in {picture}")
    if probe:
        inside = found.probe(bridge, chosen)
        say(str(inside))
        say(f"What the subspaces encode is in {inside.save(out / 'probe')}")


def run_generate(
    folder: Path,
    prompts: Sequence[str],
    *,
    model: str | None,
    tokens: int,
    every: bool,
    edits: str | None,
    say: Say,
) -> None:
    """Continue prompts with a saved intervention.

    Raises:
        FileNotFoundError: the folder holds no saved intervention.
        ValueError: the model is not given and not known, or does not fit; composed edits, and it is
            not said which of them are wanted, or others, and it is.
    """
    trained_on = read_model_name(folder)  # a wrong folder is said before a model is loaded
    bridge = load_model(model or trained_on)
    intervened = IntervenedModel.load(folder, bridge)
    wanted = _wanted_edits(intervened, edits)
    edited = intervened.generate(
        [{"prompt": prompt, "edits": wanted} for prompt in prompts],
        when="every token" if every else "prompt",
        max_new_tokens=tokens,
    )
    for prompt, text in zip(prompts, edited, strict=True):
        say(f"{prompt} → {text}")
    say(f"({identify(bridge)})")


def _wanted_edits(intervened: IntervenedModel, edits: str | None) -> list[str] | None:
    """Names with commas between, of those that there are; None where edits have no names."""
    named = dict.fromkeys(placement.name for placement in intervened.placements)
    names = [name for name in named if name is not None]
    if edits is None:
        if names:
            raise ValueError(
                f"edits must say which of {', '.join(names)} are wanted, as --edits {names[0]} (or "
                '--edits "" for none)'
            )
        return None
    wanted = [name.strip() for name in edits.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in names]:
        there = f"must be among {', '.join(names)}" if names else "have no names here"
        raise ValueError(f"edits {there}, got {unknown[0]!r}")
    return wanted if names else None


def _numbers(layers: str) -> list[int]:
    """ "all" as no numbers, else numbers with commas between."""
    if layers == "all":
        return []
    try:
        numbers = [int(layer) for layer in layers.split(",")]
    except ValueError as error:
        raise ValueError(
            f'layers must be "all" or numbers with commas between, as 8,12,16; got {layers!r}'
        ) from error
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError(f"layers must be different numbers from 0, got {layers!r}")
    return numbers
