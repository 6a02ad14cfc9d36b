"""Training on an NVIDIA GPU by the real command. Not yet run on hardware in this project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
def test_flash_attention_over_packed_rows_equals_attention_by_sequence(kernel: str) -> None:
    from ragray.train import varlen
    from ragray.train.examples import Example
    from ragray.train.packing import pack, packed_attention

    torch.manual_seed(0)
    row = pack([Example(str(n), tuple(range(length)), 1) for n, length in enumerate((30, 70, 30, 1, 200))])
    tokens = row.token_ids.shape[1]
    given = [torch.randn(1, heads, tokens, 64, device="cuda", dtype=torch.bfloat16) for heads in (8, 2, 2)]
    ways, edges = [], row.edges.cuda()
    if kernel not in varlen.here():
        pytest.skip(f"{kernel} is not installed")
    for name in ("sdpa", kernel):
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        out, _ = packed_attention(
            torch.nn.Identity(), *leaves, None, 0.125, boundaries=row.boundaries, edges=edges, kernel=name
        )
        out.float().square().sum().backward()
        ways.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*ways, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("precision", "zero_stage"), [("bf16", 2), ("bf16", 3), ("bf16", 0), ("fp32", 0)])
@pytest.mark.parametrize("offload", ["none", "optimizer"])
def test_loss_falls(tmp_path: Path, precision: str, zero_stage: int, offload: str) -> None:
    if offload != "none" and zero_stage == 0:
        pytest.skip("nothing is sharded")
    settings = [
        f"output={tmp_path}", "train.use_gpu=true", "train.num_workers=1", "train.max_steps=20",
        f"train.precision={precision}", f"train.zero_stage={zero_stage}",
        f"train.offload={offload}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "ragray.cli", "train", "--config", "configs/demo.yaml", "--json"]
    command += [part for item in settings for part in ("--set", item)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["train"]["metrics"]
    assert metrics["last_loss"] < 0.9 * metrics["first_loss"]
