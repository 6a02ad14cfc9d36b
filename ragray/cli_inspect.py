"""The commands `ragray inspect ...`: show settings, artifacts and what training is made of, without running it.

In: arguments. Out: text on the screen, or files where a command says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ragray.config_loading import load_config
from ragray.errors import ConfigError

if TYPE_CHECKING:
    from ragray.artifact import Artifact
    from ragray.config import RunConfig

_ARTIFACT = "artifact"

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="A.B=C", help="Override one field; repeatable.")
]


class _FoldersToo(TyperGroup):
    """Takes what is no command's name for an artifact's folder."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else [_ARTIFACT, *args])


app = typer.Typer(cls=_FoldersToo, help="Show settings, artifacts and what training is made of.", no_args_is_help=True)


@app.command()
def config(
    config: ConfigOption = Path("configs/demo.yaml"),
    set_: SetOption = None,
) -> None:
    """Show the resolved configuration, with all defaults and overrides."""
    typer.echo(load_config(config, set_ or ()).model_dump_json(indent=2))


@app.command()
def fields() -> None:
    """Show all fields of the configuration as Markdown."""
    from ragray.config_reference import reference

    typer.echo(reference(), nl=False)


@app.command()
def schedule(
    config: ConfigOption = Path("configs/demo.yaml"),
    set_: SetOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the run; by default train.max_steps, else 100.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The chart, SVG.")] = Path("schedule.svg"),
) -> None:
    """Draw the learning rate of every step, without training."""
    from ragray.train.curves import schedule_curve

    settings = load_config(config, set_ or ()).train
    curve = schedule_curve(settings, steps or settings.max_steps or 100)
    _show(curve.table(), curve.svg(), out)


@app.command()
def loss(
    config: ConfigOption = Path("configs/demo.yaml"),
    set_: SetOption = None,
    vocabulary: Annotated[int, typer.Option(min=2, help="Tokens that share what the right one leaves.")] = 32000,
    out: Annotated[Path, typer.Option(help="The chart, SVG.")] = Path("loss.svg"),
) -> None:
    """Draw the loss over the probability of the right token, without training."""
    from ragray.train.curves import loss_curve

    curve = loss_curve(load_config(config, set_ or ()).train.loss, vocabulary)
    _show(curve.table(), curve.svg(), out)


def _show(table: str, svg: str, out: Path) -> None:
    try:
        out.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}", "name a file in a folder") from error
    typer.echo(table)
    typer.echo(f"chart: {out}")


@app.command(_ARTIFACT)
def artifact(folder: Annotated[str, typer.Argument(help="An artifact's folder.")]) -> None:
    """Show an artifact's manifest; `ragray inspect FOLDER` does the same."""
    typer.echo(open_artifact(folder).manifest.to_json(), nl=False)


@app.command()
def model(
    config: ConfigOption,
    set_: SetOption = None,
    examples: Annotated[
        Path | None, typer.Option(help="examples.parquet; by default that of this run, where it is made.")
    ] = None,
    measure: Annotated[int | None, typer.Option(metavar="N", help="Run N real steps and estimate the time.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Plan a training before any work: what is trained, in how much memory, in how many steps."""
    import json

    from ragray.train.plan_text import inspect_model, lines

    settings = load_config(config, set_ or ())
    found = inspect_model(settings, examples or _examples_of(settings), measure)
    typer.echo(json.dumps(found.tree()) if json_ else "\n".join(lines(found)))


def _examples_of(config: RunConfig) -> Path | None:
    """The examples of a run, where they are made and up to date."""
    from ragray.distributed.pipeline import finished
    from ragray.errors import ArtifactError, DataError

    try:
        return finished(config, "augment")["augment"].file("examples.parquet")
    except (ArtifactError, DataError):  # not made yet, or the data are not at hand
        return None


@app.command()
def adapter(
    folder: Annotated[Path, typer.Argument(help="An adapter's folder, or a train artifact's.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md and update.json.")],
    checkpoints: Annotated[
        Path | None, typer.Option(help="A run's folder of checkpoints, to see how the update changed.")
    ] = None,
) -> None:
    """Show LoRA's matrix update: size, rank and direction by layer and module, and a rank to train with."""
    from ragray.train.update_report import report_adapter

    _check_folder(out)
    suggestion = report_adapter(folder, checkpoints, out)
    typer.echo(f"suggested rank {suggestion.rank}: {suggestion.reason}\n{out / 'report.html'}")


@app.command()
def run(
    runs: Annotated[
        list[str], typer.Argument(help="Train artifacts, or work folders of runs that go on or were killed.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for run.html and run.json.")] = Path("run-report"),
) -> None:
    """Compare runs of training in a page with charts: losses, learning rates, norms, speed, memory, settings."""
    from ragray.train.run_page import short
    from ragray.train.run_report import compare, write_comparison

    _check_folder(out)
    comparison = compare([Path(name) if Path(name).is_dir() else open_artifact(name).folder for name in runs])
    write_comparison(comparison, out)
    for made in comparison.runs:
        found = made.summary
        typer.echo(
            f"{made.name}: {found['steps']} steps, loss {short(found['last_loss'])}, "
            f"validation {short(found['last_valid_loss'])}, {short(found['tokens_per_s'])} tokens/s"
        )
    typer.echo(f"report: {out / 'run.html'}")


def _check_folder(out: Path) -> None:
    """Check that a report can be written into a folder, before the work; makes nothing.

    Raises:
        ConfigError: it cannot.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        problem = "not writable" if there.is_dir() else "a file"
        raise ConfigError(f"--out {out}: {there} is {problem}", "name another folder")


def open_artifact(uri: str) -> Artifact:
    """The artifact in a folder of a store.

    Raises:
        ConfigError: the path is none of a store's.
        ArtifactError: there is no whole artifact.
    """
    from ragray.artifact import Store

    root, _, _ = uri.rstrip("/").rpartition("/")
    root, _, kind = root.rpartition("/")
    if not kind or not root:
        raise ConfigError(
            f"{uri}: no artifact's folder",
            "name one like artifacts/demo/index/0123456789abcdef; `ragray inspect --help` lists what else can be shown",
        )
    return Store(root).open(uri.rstrip("/"))
