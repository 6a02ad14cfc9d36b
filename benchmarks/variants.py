"""What question variants give the tuned model: the demo trained without them, with those of rules, and with a writer's.

In: a run's YAML file, by default the bundled demo. Each arm runs the whole chain for several seeds; stages that do not
differ between arms run once. All answer the same held-out questions. Out: a Markdown table of the token F1 with
retrieval, a question's value being its mean over the seeds, and a paired comparison with the first arm. The writer is
the engine that the rules' arm built. Takes about three minutes for each arm and seed of the demo on two CPUs; not a
speed benchmark.

  python benchmarks/variants.py --seeds 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as pq
from harness import publish

from ragray.config_loading import load_config
from ragray.evaluation.significance import Resampling
from ragray.evaluation.summary import MAIN_CELL

OFF, LONGER, RULES, ALL = "off", "off, as many steps as rules", "rules", "rules and writer"
FIRST_SEED = 17
_RESAMPLING = Resampling(10_000, FIRST_SEED)
Outcome = dict[str, Any]  # of a stage, as `ragray ... --json` prints it


@dataclass
class Arm:
    """What the runs of one arm found."""

    f1: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # question -> by seed
    steps: list[int] = field(default_factory=list)
    variants: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    unusable: list[int] = field(default_factory=list)  # replies of the writer

    def add(self, outcomes: Mapping[str, Outcome]) -> None:
        """Take the figures of one finished chain."""
        table = pq.read_table(Path(outcomes["evaluate"]["artifact"]) / "predictions.parquet")
        for row in table.select(["cell", "query_id", "right", "f1"]).to_pylist():
            if row["cell"] == MAIN_CELL and row["right"]:
                self.f1[row["query_id"]].append(row["f1"])
        augmented = outcomes["augment"]["counts"]
        self.steps.append(outcomes["train"]["counts"]["steps"])
        self.variants.append(augmented["variants"])
        self.refused.append(_sum(augmented, "refused."))
        self.unusable.append(_sum(augmented, "writer.bad."))

    def means(self) -> list[float]:
        """The mean over the seeds of each question."""
        return [mean(self.f1[question]) for question in sorted(self.f1)]


def run_chain(config: Path, output: Path, settings: Mapping[str, object]) -> dict[str, Outcome]:
    """Run the chain up to the evaluation by the command line; what it tells of each stage."""
    given = {"output": output, **settings}
    options = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    command = [str(Path(sys.executable).with_name("ragray")), "evaluate", "--config", str(config), "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    outcomes: dict[str, Outcome] = json.loads(done.stdout.splitlines()[-1])
    return outcomes


def run_seed(config: Path, output: Path, seed: int, arms: Mapping[str, Arm]) -> None:
    """All arms with one seed."""
    ruled = run_chain(config, output, {"seed": seed})
    arms[RULES].add(ruled)
    off = {"seed": seed, "augment.variants_per_question": 0}
    arms[OFF].add(run_chain(config, output, off))
    epochs = load_config(config).train.epochs
    more = max(1, round(epochs * arms[RULES].steps[-1] / arms[OFF].steps[-1]))
    arms[LONGER].add(run_chain(config, output, {**off, "train.epochs": more}))
    writer = {"augment.writer": "engine", "augment.engine": ruled["engine"]["artifact"]}
    arms[ALL].add(run_chain(config, output, {"seed": seed, **writer}))


def rows_of(arms: Mapping[str, Arm]) -> list[str]:
    """A table row for each arm."""
    base, rows = arms[OFF].means(), []
    for name, arm in arms.items():
        values = arm.means()
        seeds = ", ".join(f"{mean(run):.3f}" for run in zip(*arm.f1.values(), strict=True))
        found = _RESAMPLING.compare(values, base, name)
        told = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}), p {found.p_value:.4f}"
        rows.append(
            f"| {name} | {mean(arm.variants):.0f} | {mean(arm.refused):.0f} | {mean(arm.unusable):.0f} "
            f"| {mean(arm.steps):.0f} | {mean(values):.3f} | {seeds} | {'' if name == OFF else told} |"
        )
    return rows


def _sum(counts: Mapping[str, int], prefix: str) -> int:
    return sum(count for name, count in counts.items() if name.startswith(prefix))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--output", type=Path, help="folder for the artifacts, kept; else a temporary one")
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args(arguments)
    arms = {name: Arm() for name in (OFF, LONGER, RULES, ALL)}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
            run_seed(args.config, args.output or Path(folder), seed, arms)
            print(f"seed {seed} done", file=sys.stderr, flush=True)
    compared = "against off, with 95 % interval"
    columns = ("variants", "kept", "refused", "unusable replies", "steps", "F1", "F1 by seed", compared)
    setting = f"{args.config.name}, {args.seeds} seeds, {len(arms[OFF].f1)} answerable held-out questions"
    publish("variants", setting, columns, rows_of(arms), not args.no_record)


if __name__ == "__main__":
    main()
