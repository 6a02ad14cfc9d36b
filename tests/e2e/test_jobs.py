"""Training as a job of a Ray cluster that asks for a token: submitted, stopped, submitted again, refused."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from small_chain import ROOT, SMALL, SmallRun

pytestmark = pytest.mark.slow

RAY = (sys.executable, "-m", "ray.scripts.scripts")
STEPS = 30  # more than happen while `ray job stop` starts; the small run has fewer, so that its training is not found


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


class Cluster:
    """A Ray head node with a dashboard and a token, beside any other on this machine."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="ragray-")  # a short path: sockets lie below it
        clean = {n: v for n, v in os.environ.items() if not n.startswith("RAY_") and n != "PYTHONPATH"}
        clean["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as where it is active
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.environment = {**clean, **token, "RAY_USAGE_STATS_ENABLED": "0"}
        self.address = f"http://127.0.0.1:{free_port()}"
        ports = {
            "port": free_port(),
            "dashboard-port": int(self.address.rpartition(":")[2]),
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
        }
        options = [f"--{name}={port}" for name, port in ports.items()]
        head = ("start", "--head", "--block", "--num-cpus=2", f"--temp-dir={self.folder}", *options)
        self._head = subprocess.Popen(
            [*RAY, *head], env=self.environment, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def job(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job`, as a user types it."""
        verb, *rest = arguments
        command = [*RAY, "job", verb, f"--address={self.address}", *rest]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def close(self) -> None:
        """End it with all that it started; at SIGTERM it would wait half a minute for its node to drain."""
        head = psutil.Process(self._head.pid)
        started = [head, *head.children(recursive=True)]
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(started, timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)


def until(found: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    try:
        until(lambda: made.job("list").returncode == 0)
        yield made
    finally:
        made.close()


def train(output: Path, *more: str) -> list[str]:
    """The job that `docs/operations.md` names."""
    sets = [f"output={output}", *SMALL, f"train.max_steps={STEPS}", *more]
    options = [part for item in sets for part in ("--set", item)]
    return ["--working-dir", ".", "--", "python", "jobs/train.py", "--config", "configs/demo.yaml", *options]


def test_a_stopped_job_goes_on_from_its_checkpoint(cluster: Cluster, small_run: SmallRun, tmp_path: Path) -> None:
    output = shutil.copytree(small_run.output, tmp_path / "output")
    finished = len(list(output.glob("train/*/manifest.json")))
    submitted = cluster.job("submit", "--no-wait", "--submission-id=stopped", *train(output))
    assert submitted.returncode == 0, submitted.stderr
    until(lambda: any(output.glob(".work/train-*/checkpoints/step-*")))
    assert "'stopped' was stopped" in cluster.job("stop", "stopped").stdout
    assert len(list(output.glob("train/*/manifest.json"))) == finished
    resumed = cluster.job("submit", *train(output))
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    assert re.search(r"resuming after step \d+", resumed.stdout)
    assert "succeeded" in resumed.stdout
    assert len(list(output.glob("train/*/manifest.json"))) == finished + 1
    assert not list(output.glob(".work/train-*"))


def test_a_job_that_cannot_run_fails_with_its_message(cluster: Cluster, small_run: SmallRun, tmp_path: Path) -> None:
    done = cluster.job("submit", *train(small_run.output, "train.num_workers=99"))
    assert done.returncode != 0
    assert "99 workers of 1 CPU each do not fit in this cluster (2 CPU)" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_job_without_the_token_is_refused(cluster: Cluster) -> None:
    cluster_without = dict(cluster.environment, RAY_AUTH_TOKEN="another")
    command = [*RAY, "job", "list", f"--address={cluster.address}"]
    done = subprocess.run(command, env=cluster_without, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()
