"""What is measured of training on an NVIDIA GPU. Not yet run on hardware in this project."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def test_the_benchmark_runs() -> None:
    command = [sys.executable, "benchmarks/training_gpu.py", "--shapes", "tiny", "--steps", "6", "--warm-up", "2"]
    done = subprocess.run([*command, "--no-record"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| tiny | packed |" in done.stdout and "| tiny | padded |" in done.stdout


def test_a_peak_that_is_measured_stays_below_the_tables() -> None:
    from ragray.train.flops import measured_peak, table_peak

    listed = table_peak(torch.cuda.get_device_name(), "bf16")
    if listed is None:
        pytest.skip("this GPU is in no table")
    assert 0.3 * listed < measured_peak(torch.device("cuda"), "bf16") < 1.02 * listed


def test_packed_rows_and_padded_ones_give_the_same_loss() -> None:
    """The two ways that the benchmark compares are two ways to the same figure, in bf16 to one part in a hundred."""
    from ragray.train.examples import Example
    from ragray.train.losses import AnswerLoss
    from ragray.train.packing import pack, register_packed_attention

    sys.path.insert(0, str(ROOT / "benchmarks"))
    import training_gpu

    device, losses = torch.device("cuda"), []
    examples = [Example(str(n), tuple(range(n, n + 20 + 5 * n)), 10 + n) for n in range(6)]
    for attention in (register_packed_attention("varlen"), "sdpa"):
        model = training_gpu.build_model("tiny", attention, device, torch.bfloat16).eval()
        with torch.no_grad():
            if attention == "sdpa":
                batch, _ = training_gpu._pad(examples, device)
                losses.append(float(training_gpu._padded_loss()(model)(batch)))
            else:
                losses.append(float(AnswerLoss(model)(pack(examples).to(device))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
