"""The sinks that training can be told to write to.

In: rows of figures, one after each step. Out: metrics.jsonl, TensorBoard's event files, a run of MLflow or of Weights &
Biases. All of them go on where a resumed run goes on. Packages are imported when a sink is made or first written to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"

Row = Mapping[str, float | int]


class JsonlSink:
    """metrics.jsonl, a line for each step; what a resumed run does again is written once."""

    name = "jsonl"
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, path: Path, step: int) -> None:
        self._path, self._step = path, step
        self._file: Any = None

    def write(self, row: Row) -> None:
        """Append a line."""
        if self._file is None:
            kept = [made for made in read_jsonl(self._path) if made["step"] <= self._step]
            self._path.write_text("".join(json.dumps(made) + "\n" for made in kept), encoding="utf-8")
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps(dict(row)) + "\n")
        self._file.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without a last line that is not whole; none where there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class TensorBoardSink:
    """Event files that TensorBoard shows; a resumed run hides the steps that it does again."""

    name = "tensorboard"
    errors: tuple[type[Exception], ...] = (OSError, ValueError)

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._step = folder, step
        self._writer: Any = None

    def write(self, row: Row) -> None:
        """Add a point to each curve."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._step + 1, flush_secs=5)
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name.replace("rank_", "rank/"), value, row["step"])

    def close(self, failed: bool) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()


class MlflowSink:
    """A run of an MLflow server, found again by its name when training resumes."""

    name = "mlflow"

    def __init__(self, uri: str, run_name: str, experiment: str = "ragray") -> None:
        from mlflow.exceptions import MlflowException

        self.errors: tuple[type[Exception], ...] = (MlflowException, OSError)
        self._uri, self._run_name, self._experiment = uri, run_name, experiment
        self._client: Any = None
        self._run_id = ""

    def write(self, row: Row) -> None:
        """Log the figures of a step."""
        from mlflow.entities import Metric

        if self._client is None:
            self._open()
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, int(row["step"])) for name, value in row.items() if name != "step"]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _open(self) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        experiment = client.get_experiment_by_name(self._experiment)
        place = client.create_experiment(self._experiment) if experiment is None else experiment.experiment_id
        found = client.search_runs([place], f"attributes.run_name = '{self._run_name}'", max_results=1)
        run = found[0] if found else client.create_run(place, run_name=self._run_name)
        if found:
            client.update_run(run.info.run_id, status="RUNNING")
        self._client, self._run_id = client, run.info.run_id

    def close(self, failed: bool) -> None:
        """Mark the run as finished or failed."""
        if self._client is not None:
            self._client.set_terminated(self._run_id, status="FAILED" if failed else "FINISHED")


class WandbSink:
    """A run of Weights & Biases, taken up again by its id when training resumes."""

    name = "wandb"

    def __init__(self, project: str, run_name: str, folder: Path) -> None:
        import wandb

        self.errors: tuple[type[Exception], ...] = (wandb.errors.Error, OSError)
        self._entity, _, self._project = project.rpartition("/")
        self._run_name, self._folder = run_name, folder
        self._run: Any = None

    def write(self, row: Row) -> None:
        """Log the figures of a step."""
        if self._run is None:
            import wandb

            self._run = wandb.init(
                entity=self._entity or None,
                project=self._project,
                id=self._run_name,
                name=self._run_name,
                resume="allow",
                dir=str(self._folder),
                settings=wandb.Settings(console="off", silent=True),
            )
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

    def close(self, failed: bool) -> None:
        """Send what is not sent yet, and mark the run as finished or failed."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
