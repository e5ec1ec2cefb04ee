"""The commands and their options.

What a command does is imported when it is called, so that `--help` loads nothing heavy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from evolve import __version__
from evolve.cli.names import complete_models, complete_runs, expanded, find_run
from evolve.errors import InputError

__all__ = ["app", "call"]

_UsageError: Any = typer.BadParameter.__bases__[0]  # click's, which typer does not export
_RUNS, _LOOK, _TOOLS = "Runs", "Results", "Tools"
_OUTPUT, _SETTINGS = "Output", "Configuration"

app = typer.Typer(
    name="evolve",
    help="Merge fine-tuned models of one base model, score the children, select the best, repeat.",
    epilog="Begin with: evolve check configs/demo.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[
    Path, typer.Argument(help="Configuration file (YAML).", metavar="CONFIG", show_default=False, parser=expanded)
]
RunPath = Annotated[
    Path,
    typer.Argument(
        help="Folder of a run, or its name in runs/.",
        metavar="RUN",
        show_default=False,
        parser=find_run,
        autocompletion=complete_runs,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting, for example strategy.top_k=4 or evaluation.tasks.0.num_fewshot=0; may be repeated.",
        rich_help_panel=_SETTINGS,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", metavar="", help="Take over a run whose process on another host has certainly ended.")
]
NoRehearsal = Annotated[
    bool,
    typer.Option(
        "--no-rehearsal",
        metavar="",
        help="Do not load each model, score it on two documents of each task and merge a part of a pair beforehand.",
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.", rich_help_panel=_OUTPUT)]


def call() -> int:
    """Call the command that the arguments name, and return its exit code; wrong arguments give one message."""
    try:
        return int(app(standalone_mode=False) or 0)
    except _UsageError as error:
        return _explain(error)


def _explain(error: Any) -> int:
    """Print the error of the arguments and the command for help; return the exit code."""
    from evolve.cli.output import say_error

    message = error.format_message()
    if message:  # `evolve` alone prints its help instead
        stop = "" if message.endswith((".", "?")) else "."
        command = error.ctx.command_path if error.ctx else "evolve"
        say_error(f"evolve: {message}{stop} See `{command} --help`.")
    return int(error.exit_code)


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
            "--version",
            metavar="",
            help="Print the version.",
            callback=lambda asked: _version(asked=asked),
            is_eager=True,
        ),
    ] = False,
) -> None:
    del version
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is the same call
    except OSError as error:
        raise InputError(f"the working directory cannot be used ({error.strerror}); change to another one") from None


@app.command(epilog="Example: evolve run configs/demo.yaml --set strategy.top_k=4", rich_help_panel=_RUNS)
def run(
    config: ConfigPath,
    *,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir", metavar="DIR", help="Folder of the run.", show_default="runs/<name>", parser=expanded
        ),
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
    no_rehearsal: NoRehearsal = False,
) -> None:
    """Start the run of a configuration, or resume it."""
    from evolve.cli.driving import run_config

    run_config(config, run_dir, overrides or [], force=force, rehearsal=not no_rehearsal)


@app.command(epilog="Example: evolve resume demo", rich_help_panel=_RUNS)
def resume(run: RunPath, *, force: Force = False) -> None:
    """Resume an interrupted run from its folder alone."""
    from evolve.cli.driving import resume_run

    resume_run(run, force=force)


@app.command(epilog="Example: evolve check configs/mistral-7b-kinship.yaml --download", rich_help_panel=_RUNS)
def check(
    config: ConfigPath,
    *,
    overrides: Overrides = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", metavar="", help="Accept models that cannot be reached; list them as not checked."),
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", metavar="", help="Download models that are not here yet.")
    ] = False,
    time: Annotated[
        bool,
        typer.Option("--time", metavar="", help="Time one batch of the evaluation, and estimate the time of the run."),
    ] = False,
    no_rehearsal: NoRehearsal = False,
) -> None:
    """Validate configuration, models, recipes, tasks, data and disk space before a run."""
    from evolve.cli.driving import check_config

    check_config(config, overrides or [], offline=offline, download=download, time=time, rehearsal=not no_rehearsal)


@app.command(epilog="Example: evolve status demo", rich_help_panel=_LOOK)
def status(run: RunPath, *, json: Json = False) -> None:
    """Show the state of a run: its current step, its best models, and why it stopped."""
    from evolve.cli.looking import show_status

    show_status(run, as_json=json)


@app.command(epilog="Example: evolve tree demo", rich_help_panel=_LOOK)
def tree(run: RunPath, *, json: Json = False) -> None:
    """Show the family tree; as JSON, in the node-link form of networkx."""
    from evolve.cli.looking import show_tree

    show_tree(run, as_json=json)


@app.command(epilog="Example: evolve show demo model-2-exp", rich_help_panel=_LOOK)
def show(
    run: RunPath,
    model: Annotated[
        str,
        typer.Argument(help="Name of a model.", metavar="MODEL", show_default=False, autocompletion=complete_models),
    ],
    *,
    json: Json = False,
) -> None:
    """Show one model in detail."""
    from evolve.cli.looking import show_model

    show_model(run, model, as_json=json)


@app.command(epilog="Example: evolve compare demo demo-greedy", rich_help_panel=_LOOK)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, or their names in runs/.",
            metavar="RUN",
            show_default=False,
            parser=find_run,
            autocompletion=complete_runs,
        ),
    ],
    *,
    json: Json = False,
) -> None:
    """Show runs side by side."""
    from evolve.cli.looking import show_comparison

    show_comparison(runs, as_json=json)


@app.command(
    epilog="Example: evolve kinship --base runs/nursery/base runs/nursery/facts runs/nursery/arithmetic",
    rich_help_panel=_TOOLS,
)
def kinship(
    models: Annotated[
        list[str],
        typer.Argument(help="Folders or Hub ids of two or more models.", metavar="MODEL", show_default=False),
    ],
    *,
    base: Annotated[
        str,
        typer.Option("--base", metavar="MODEL", help="Folder or Hub id of their base model.", show_default=False),
    ],
    metric: Annotated[str, typer.Option(metavar="METRIC", help="pcc, cs, ed or all.", rich_help_panel=_OUTPUT)] = "all",
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:<number>.")] = "auto",
    json: Json = False,
) -> None:
    """Measure the kinship of models: how similar their differences to the base model are."""
    from evolve.cli.measuring import measure_kinship

    measure_kinship(models, base, metric, device, as_json=json)


@app.command(epilog="Example: evolve nursery runs/nursery", rich_help_panel=_TOOLS)
def nursery(
    directory: Annotated[
        Path, typer.Argument(help="Folder for the models.", metavar="DIR", show_default=False, parser=expanded)
    ],
    *,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**31 - 1, metavar="SEED", help="Seed of the training.", show_default="0"),
    ] = None,
) -> None:
    """Train a tiny family to try evolve with: a base model, three specialists and small benchmarks."""
    from evolve.cli.building import build_family

    build_family(directory, seed)
