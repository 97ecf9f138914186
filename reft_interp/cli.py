"""The command line: `reft-interp demo`, `reft-interp doctor`.

Imports are inside the commands, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Train an intervention on a hooked language model, then probe what its subspace encodes.",
    no_args_is_help=True,
    add_completion=False,
)


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
    model: Annotated[
        str, typer.Option(help="A hub name, a folder, a GGUF file, or smollm2.")
    ] = "smollm2",
    seed: Annotated[int, typer.Option(help="Of data, starts and controls.")] = 0,
) -> None:
    """Find a causal variable by DAS, teach two ReFTs a task, probe both, write a report."""
    from reft_interp.demo import run_demo

    _or_exit(lambda: run_demo(out, data=data, model=model, seed=seed))


@app.command()
def doctor() -> None:
    """Print versions, devices, the model cache, and what works on the embedded model."""
    from reft_interp.models import doctor as diagnose

    diagnosis = diagnose()
    typer.echo(str(diagnosis))
    raise typer.Exit(0 if diagnosis.ok else 1)


def _or_exit(job) -> None:
    """A mistake of the user's is a sentence on the screen, not a traceback."""
    try:
        job()
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point of the `reft-interp` command."""
    app()
