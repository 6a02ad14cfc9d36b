"""Training on an NVIDIA GPU by the real command. Not yet run on hardware in this project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.mark.parametrize(("precision", "zero_stage"), [("bf16", 2), ("bf16", 3), ("fp32", 0)])
def test_loss_falls(tmp_path: Path, precision: str, zero_stage: int) -> None:
    settings = [
        f"output={tmp_path}", "train.use_gpu=true", "train.num_workers=1", "train.max_steps=20",
        f"train.precision={precision}", f"train.zero_stage={zero_stage}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "ragray.cli", "train", "--config", "configs/demo.yaml", "--json"]
    command += [part for item in settings for part in ("--set", item)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["train"]["metrics"]
    assert metrics["last_loss"] < 0.9 * metrics["first_loss"]
