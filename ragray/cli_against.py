"""What `ragray evaluate --against RUN` does beside evaluating: compare, show, and refuse.

In: an earlier evaluation's folder and limits such as `answers.f1=0.01`. Out: a table or JSON, a page where one is
wanted, and a `QualityError` where a limit is exceeded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ragray.cli_inspect import open_artifact
from ragray.errors import ConfigError, QualityError

if TYPE_CHECKING:
    from ragray.artifact import Artifact
    from ragray.evaluation.against import RunFigures


@dataclass(frozen=True)
class Baseline:
    """The evaluation to hold against, read before anything is run, and by how much metrics may get worse."""

    figures: RunFigures
    limits: dict[str, float]

    @classmethod
    def open(cls, uri: str, limits: Iterable[str]) -> Baseline:
        """Read the earlier evaluation.

        Raises:
            ConfigError: a limit is not written as one, or of no metric that the evaluation has.
            ArtifactError: there is no such evaluation.
        """
        from ragray.evaluation.against import check_names, parse_limits, read_figures

        parsed = parse_limits(limits)
        figures = read_figures(open_artifact(uri))
        check_names(parsed, sorted(figures.values))
        return cls(figures, parsed)

    def compare(self, artifact: Artifact, seed: int, folder: Path | None, as_json: bool) -> None:
        """Compare an evaluation with this one, show it, and write the page into `folder`.

        Raises:
            DataError: they have other questions.
            QualityError: a metric got worse by more than it may.
        """
        from ragray.evaluation.against import compare_runs, read_figures
        from ragray.evaluation.against_report import HEADER, plain_rows, write_comparison
        from ragray.terminal import out, plain_table

        compared = compare_runs(self.figures, read_figures(artifact), self.limits, seed)
        if folder is not None:
            try:
                write_comparison(folder, compared)
            except OSError as error:
                raise ConfigError(
                    f"--out {folder}: cannot be written: {error.strerror}", "name a folder that you may write to"
                ) from None
        if as_json:
            typer.echo(json.dumps(compared.tree(), ensure_ascii=False))
        else:
            out.print(plain_table(HEADER, plain_rows(compared)))
        if compared.failed:
            worst = "; ".join(f"{c.name} by {c.worse_by:.4f}, allowed {c.allowed:g}" for c in compared.failed)
            raise QualityError(
                f"worse than {self.figures.uri}: {worst}",
                "look at the report's worst answers, or raise --max-drop where the loss is meant",
            )
