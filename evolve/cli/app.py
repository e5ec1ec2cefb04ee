"""The commands and their options; what they do is imported when one is called, so that help is at once there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from evolve import __version__
from evolve.errors import EvolveError

__all__ = ["app", "main"]

app = typer.Typer(
    name="evolve",
    help="Breeds better language models out of fine-tuned ones of one base: merge, score, select, repeat.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[Path, typer.Argument(help="Configuration (YAML).", metavar="CONFIG", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a setting, for example strategy.top_k=4; may be repeated."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Take over a run whose driver on another host has certainly ended.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line; errors that evolve raises on purpose become one message and an exit code."""
    try:
        app()
    except EvolveError as error:
        print(f"evolve: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"evolve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=lambda asked: _version(asked=asked), is_eager=True
        ),
    ] = False,
) -> None:
    del version


@app.command()
def run(
    config: ConfigPath,
    *,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder of the run.", show_default="runs/<name>")
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
) -> None:
    """Breed: start the run of a configuration, or go on with it where it was interrupted."""
    from evolve.cli.driving import run_config

    run_config(config, run_dir, overrides or [], force=force)


@app.command()
def resume(run: RunPath, *, force: Force = False) -> None:
    """Go on with an interrupted run."""
    from evolve.cli.driving import resume_run

    resume_run(run, force=force)


@app.command()
def check(config: ConfigPath, *, overrides: Overrides = None) -> None:
    """Check all that can be known before the work: models, recipe, tasks, data, disk."""
    from evolve.cli.driving import check_config

    check_config(config, overrides or [])


@app.command()
def status(run: RunPath, *, json: Json = False) -> None:
    """Show where a run stands."""
    from evolve.cli.looking import show_status

    show_status(run, as_json=json)


@app.command()
def tree(
    run: RunPath,
    *,
    form: Annotated[
        Literal["text", "json"], typer.Option("--format", help="text, or json as networkx reads it.")
    ] = "text",
) -> None:
    """Show the family tree."""
    from evolve.cli.looking import show_tree

    show_tree(run, as_json=form == "json")


@app.command()
def show(
    run: RunPath,
    model: Annotated[str, typer.Argument(help="Name of a model.", metavar="MODEL", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """Show all about one model."""
    from evolve.cli.looking import show_model

    show_model(run, model, as_json=json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """Show runs side by side."""
    from evolve.cli.looking import show_comparison

    show_comparison(runs, as_json=json)


@app.command()
def kinship(
    models: Annotated[
        list[str],
        typer.Argument(help="Folders or hub ids of at least two models.", metavar="MODEL...", show_default=False),
    ],
    *,
    base: Annotated[str, typer.Option("--base", help="Folder or hub id of their base model.", show_default=False)],
    metric: Annotated[Literal["pcc", "cs", "ed", "all"], typer.Option(help="What to show.")] = "all",
    device: Annotated[str, typer.Option(help="auto, cpu or a CUDA device.")] = "auto",
    json: Json = False,
) -> None:
    """Measure how alike models are: Pearson correlation, cosine and distance of their deltas to the base."""
    from evolve.cli.measuring import measure_kinship

    measure_kinship(models, base, metric, device, as_json=json)


@app.command()
def nursery(
    directory: Annotated[Path, typer.Argument(help="Folder for the family.", metavar="DIR", show_default=False)],
    *,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Seed of everything that is drawn.", show_default="0")
    ] = None,
) -> None:
    """Train a tiny family to try evolve on: a base, three specialists, and small benchmarks."""
    from evolve.cli.rearing import rear_family

    rear_family(directory, seed)
