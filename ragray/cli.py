"""The command line: one command per stage, and those that ask, serve and explain.

In: arguments. Out: artifacts, tables, exit codes (0 done, 2 usage or config, 3 data, 4 work, 130
interrupted). `jobs/*.py` call `main` with the same arguments. Heavy packages are imported by the
commands that need them.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ragray
from ragray import cli_against, cli_engine, cli_inspect, cli_keys, cli_live, cli_tune
from ragray.cli_inspect import ConfigOption, SetOption
from ragray.cli_run import JsonOption, bring_stages, show_outcomes
from ragray.cli_run import run_stages as _run
from ragray.config_loading import load_config, load_retrieval
from ragray.errors import EXIT_DONE, EXIT_INTERRUPTED, ConfigError, EngineError, RagrayError

if TYPE_CHECKING:
    from ragray.artifact import Artifact
    from ragray.config import RunConfig

DEMO_CONFIG = "configs/demo.yaml"
DEMO_QUESTIONS = (
    "训练中断了怎么接着跑？",
    "How do I change the port of the API?",
    "What will the weather be like in Paris tomorrow?",
)

app = typer.Typer(
    name="ragray",
    help="Turn FAQ and documents into an assistant that answers from them, every step on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(cli_inspect.app, name="inspect")
app.add_typer(cli_live.app, name="live")
app.add_typer(cli_keys.app, name="keys")
app.command("tune")(cli_tune.tune)
app.command("build-engine")(cli_engine.build_engine)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that `errors.py` names."""
    try:
        app(args=list(arguments) if arguments is not None else None)
    except RagrayError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        from ragray.artifact import explain_os_error

        _fail(explain_os_error(error, "this run"))


def _fail(error: RagrayError) -> None:
    from ragray.terminal import err

    err.print("error: ", style="bold red", end="")
    err.print(str(error), markup=False, soft_wrap=True)
    sys.exit(error.exit_code)


def _show_version(shown: bool) -> None:
    if shown:
        typer.echo(f"ragray {ragray.__version__}")
        raise typer.Exit(EXIT_DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


def _stage_command(name: str, targets: tuple[str, ...], help_text: str) -> None:
    @app.command(name, help=help_text)
    def command(config: ConfigOption, set_: SetOption = None, json_: JsonOption = False) -> None:
        _run(load_config(config, set_ or ()), targets, json_)


_stage_command("prepare", ("prepare",), "Read, clean, de-duplicate and split the data.")
_stage_command("index", ("index",), "Build the hybrid index over FAQ and documents.")
_stage_command("augment", ("augment",), "Make question variants, negatives and training examples.")
_stage_command("calibrate", ("calibrate",), "Fit the confidence below which questions are declined.")
_stage_command("train", ("train",), "Train the LoRA adapter by Ray Train and DeepSpeed.")
_stage_command("merge", ("merge",), "Merge the adapter into the base model.")
_stage_command("run", (), "Run the whole chain; what is unchanged is not run again.")


@app.command()
def quantize(config: ConfigOption, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Quantize the merged model by remote tasks, and choose by the answers; exit code 4 when none may be chosen."""
    artifact = _run(load_config(config, set_ or ()), ("quantize",), json_)["quantize"].artifact
    if artifact.manifest.metrics["chosen"] is None:
        raise EngineError(
            f"quantize: {artifact.manifest.metrics['reason']}; see {artifact.uri}/report.html",
            "use the merged model as it is, add a more precise method to quantize.methods, or raise "
            "quantize.gate.max_drop",
        )


evaluate = typer.Typer(subcommand_metavar="[COMMAND [ARGS]...]")
app.add_typer(evaluate, name="evaluate")


@evaluate.callback(invoke_without_command=True)
def _evaluate(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The run's YAML file; required without a command.")
    ] = None,
    set_: SetOption = None,
    speed: Annotated[bool, typer.Option("--speed", help="Measure how fast the engine is instead.")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="Compare with this finished evaluation, an artifact's folder.")
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=X", help="Exit 4 if metric NAME is worse than RUN's by more than X; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the page about the comparison.")] = None,
    json_: JsonOption = False,
) -> None:
    """Answer the held-out questions and write the report; measure speed, or search alone."""
    if context.invoked_subcommand is not None:
        if config or set_ or json_ or speed or against or max_drop or out:
            context.fail(f"Write the options behind the command: evaluate {context.invoked_subcommand} ... --json")
        return
    if config is None:
        context.fail("Missing option '--config' / '-c'.")
    if against is None:
        if max_drop or out:
            context.fail("Options '--max-drop' and '--out' go with '--against'.")
        _run(load_config(config, set_ or ()), ("speed" if speed else "evaluate",), json_)
        return
    if speed:
        context.fail("Option '--speed' does not go with '--against'.")
    settings = load_config(config, set_ or ())
    baseline = cli_against.Baseline.open(against, max_drop or ())
    outcomes = bring_stages(settings, ("evaluate",), quiet=json_)
    if not json_:
        show_outcomes(outcomes, as_json=False)
    baseline.compare(outcomes["evaluate"].artifact, settings.seed, out, json_)


@evaluate.command("retrieval")
def _evaluate_retrieval(
    folder: Annotated[
        Path, typer.Argument(help="Holds corpus.jsonl, queries.jsonl and qrels as BEIR has them, compressed or not.")
    ],
    queries: Annotated[Path | None, typer.Option(help="Other queries: JSONL, or id, tab, text.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="Other judgements: BEIR's columns or TREC's.")] = None,
    run: Annotated[Path | None, typer.Option(help="Write the hybrid's rankings here, as a TREC run.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take the retriever's settings from this run's YAML file.")
    ] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure TF-IDF, BM25 and the hybrid on a test collection with judgements."""
    from ragray.evaluation.collections import check_trec_ids, read_collection
    from ragray.evaluation.retrieval import trec_run
    from ragray.evaluation.search_quality import evaluate_search, quality_tree
    from ragray.terminal import collection_lines, err, out, quality_table, speed_table

    settings = load_retrieval(config, set_ or ())
    if run is not None and (run.is_dir() or not run.parent.is_dir()):
        raise ConfigError(
            f"--run {run}: is a folder, or its folder does not exist", "name a file in an existing folder"
        )
    collection = read_collection(folder, queries, qrels)
    if run is not None:
        check_trec_ids(collection)

    def report(line: str) -> None:
        if not json_:
            err.print(f"{line} ...", style="dim", markup=False)

    quality = evaluate_search(collection, settings, report)
    if run is not None:
        run.write_text(trec_run(quality.rankings["hybrid"], "ragray"), encoding="utf-8")
    if json_:
        typer.echo(json.dumps(quality_tree(collection, settings, quality), ensure_ascii=False))
        return
    for line in collection_lines(collection):
        out.print(line, markup=False, soft_wrap=True)
    out.print(quality_table(quality))
    out.print(speed_table(quality))


@app.command()
def demo(config: ConfigOption = Path(DEMO_CONFIG), set_: SetOption = None, json_: JsonOption = False) -> None:
    """Run the whole chain on the bundled data, then answer three questions."""
    from ragray.terminal import answer_panel, out

    settings = load_config(config, set_ or ())
    outcomes = _run(settings, (), json_)
    answers = _answers(settings, {name: o.artifact for name, o in outcomes.items()}, DEMO_QUESTIONS)
    if json_:
        return
    for question, answer in zip(DEMO_QUESTIONS, answers, strict=True):
        out.print(answer_panel(question, answer))
    out.print("[bold]Next[/]")
    out.print(f"  ragray ask 'How do I add my own FAQ?' --config {config}   ask from the terminal")
    out.print("  make serve                                                  the API and the page")
    out.print(f"  open {outcomes['evaluate'].artifact.uri}/report.html")


@app.command()
def ask(question: str, config: ConfigOption, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Answer one question with the finished index and engine."""
    from dataclasses import asdict

    from ragray.distributed.pipeline import finished
    from ragray.terminal import answer_panel, out

    settings = load_config(config, set_ or ())
    (answer,) = _answers(settings, finished(settings, "calibrate", "engine"), [question])
    if json_:
        typer.echo(json.dumps(asdict(answer), ensure_ascii=False))
    else:
        out.print(answer_panel(question, answer))


def _answers(config: RunConfig, artifacts: dict[str, Artifact], questions: Sequence[str]) -> list[Any]:
    from ragray.engine.assistant import Assistant
    from ragray.engine.runtime import load_engine
    from ragray.retrieval.confidence import Confidence
    from ragray.retrieval.index import HybridIndex

    engine = load_engine(artifacts["engine"].folder, config.engine)
    try:
        index = HybridIndex.open(artifacts["index"].folder)
        assistant = Assistant(index, Confidence.open(artifacts["calibrate"].folder), engine)
        return [assistant.ask(question) for question in questions]
    finally:
        engine.close()


@app.command()
def search(
    query: str,
    config: ConfigOption,
    set_: SetOption = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many hits.")] = 5,
    explain: Annotated[bool, typer.Option(help="Show each term's contribution.")] = False,
    json_: JsonOption = False,
) -> None:
    """Search the finished index."""
    from ragray.distributed.pipeline import finished
    from ragray.retrieval.index import HybridIndex
    from ragray.terminal import search_lines

    settings = load_config(config, set_ or ())
    index = HybridIndex.open(finished(settings, "index")["index"].folder)
    for line in search_lines(index, query, index.search(query, top_k), explain, json_):
        typer.echo(line)


@app.command()
def serve(
    config: ConfigOption,
    set_: SetOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; with --swap, of the service.")] = None,
    swap: Annotated[
        bool, typer.Option("--swap", help="Have the running service answer from these artifacts, without a pause.")
    ] = False,
    application: Annotated[
        str | None, typer.Option("--app", help="With --swap: its name in Serve, where there are several.")
    ] = None,
) -> None:
    """Serve the API and the page on the finished artifacts until interrupted."""
    if swap and host is not None:
        raise ConfigError("--host goes without --swap", "name the service's port alone")
    if application is not None and not swap:
        raise ConfigError("--app goes with --swap", "leave it out")
    overrides = list(set_ or ())
    overrides += [f"serve.{name}={value}" for name, value in (("host", host), ("port", port)) if value is not None]
    settings = load_config(config, overrides)
    if swap:
        from ragray.serve.swap import swap_app
        from ragray.terminal import out

        swap_app(settings, application, lambda line: out.print(line, markup=False, soft_wrap=True))
    else:
        from ragray.serve.app import serve_app

        serve_app(settings)


@app.command()
def lineage(artifact: Annotated[str, typer.Argument(help="An artifact's folder.")]) -> None:
    """Show what an artifact was made from, back to the source files."""
    from ragray.terminal import lineage_tree, out

    out.print(lineage_tree(cli_inspect.open_artifact(artifact)))


if __name__ == "__main__":
    main()
