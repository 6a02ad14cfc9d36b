"""The command `ragray build-engine`: engines for the CPU, or for types of the cluster's devices.

In: a run's settings and device types. Out: engine artifacts; exit code 4 where one answers worse than its model.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ragray.cli_inspect import ConfigOption, SetOption
from ragray.cli_run import JsonOption, run_stages
from ragray.config_loading import load_config


def build_engine(
    config: ConfigOption,
    set_: SetOption = None,
    for_: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="TYPE",
            help="Build on a node with a device of this type: cpu, an accelerator type of Ray's such as H100, or all "
            "for those of the cluster; repeatable. No engine was built on a GPU by this project's tests.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Build and verify the engine that generates answers: for the CPU, or for types of the cluster's devices."""
    from ragray.distributed.build_engine import STAGE, check_usable

    targets = ("merge",) if for_ else (STAGE.name,)
    outcomes = run_stages(load_config(config, set_ or ()), targets, json_, for_ or ())
    for outcome in outcomes.values():
        if outcome.stage.name == STAGE.name:
            check_usable(outcome.artifact)
