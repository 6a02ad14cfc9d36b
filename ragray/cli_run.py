"""Running stages for a command: progress on the screen, and a table or JSON at the end.

In: the settings and the stages that are wanted. Out: their outcomes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragray.config import RunConfig

if TYPE_CHECKING:
    from ragray.distributed.stage import Outcome

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and no progress.")]


def run_stages(
    config: RunConfig, targets: tuple[str, ...], as_json: bool, engines_for: Sequence[str] = ()
) -> dict[str, Outcome]:
    """Bring `targets` (all stages by default) and what they need up to date, showing progress.

    With `engines_for`, device types, `targets` is merge, and their engines are built last.
    """
    from ragray.distributed.build_engine import build_engines
    from ragray.distributed.pipeline import STAGES, stages_for
    from ragray.distributed.stage import bring_up_to_date
    from ragray.terminal import StageDisplay, out, outcome_table

    stages = stages_for(*targets) if targets else list(STAGES)
    display = StageDisplay(len(stages), quiet=as_json)
    with display.live():
        outcomes = bring_up_to_date(
            config,
            stages,
            started=display.started,
            finished=display.finished,
            report=display.report,
            progress=display.progress,
            warn=display.warn,
        )
        if engines_for:
            outcomes |= build_engines(
                config,
                outcomes["merge"].artifact,
                engines_for,
                expected=display.expect,
                started=display.started,
                finished=display.finished,
                report=display.report,
            )
    if as_json:
        typer.echo(json.dumps({name: _outcome_tree(o) for name, o in outcomes.items()}, ensure_ascii=False))
    else:
        out.print(outcome_table(list(outcomes.values())))
    return outcomes


def _outcome_tree(outcome: Outcome) -> dict[str, Any]:
    manifest = outcome.artifact.manifest
    return {
        "artifact": outcome.artifact.uri,
        "digest": manifest.digest,
        "unchanged": outcome.skipped,
        "seconds": manifest.timings_s["total"],
        "counts": manifest.counts,
        "metrics": manifest.metrics,
    }
