"""`ragray inspect`: its commands, and an artifact's folder in place of one."""

import json
from pathlib import Path

import pytest

from ragray import cli
from ragray.errors import EXIT_CONFIG, EXIT_WORK

DEMO = str(Path(__file__).parents[2] / "configs" / "demo.yaml")


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *arguments])
    code = ended.value.code
    out, err = capfd.readouterr()
    assert isinstance(code, int)
    return code, out, err


def test_config_shows_overrides(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "config", "-c", DEMO, "--set", "train.epochs=7")
    assert code == 0 and json.loads(out)["train"]["epochs"] == 7


def test_other_names_are_artifacts(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nothing"], ["artifact", "nothing"]):
        code, _, err = run(capfd, *arguments)
        assert code == EXIT_CONFIG and "nothing: no artifact's folder" in err


def test_schedule_draws_the_run_of_the_config(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chart = tmp_path / "s.svg"
    changes = ["--set", "train.schedule=linear", "--set", "train.learning_rate=2", "--set", "train.warmup_share=0"]
    code, out, _ = run(capfd, "schedule", "-c", DEMO, *changes, "--steps", "4", "--out", str(chart))
    assert code == 0 and "| 2 | 1.5 |" in out
    assert chart.read_text().startswith("<?xml")


def test_loss_draws_the_loss_of_the_config(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chart = tmp_path / "l.svg"
    code, out, _ = run(capfd, "loss", "-c", DEMO, "--set", "train.loss.kind=focal", "--out", str(chart))
    assert code == 0 and "| 0.5 | 0.1733 | 0.6931 |" in out  # log 2, and a quarter of it
    assert chart.read_text().startswith("<?xml")
    code, _, err = run(capfd, "loss", "-c", DEMO, "--out", str(tmp_path / "no" / "l.svg"))
    assert code == EXIT_CONFIG and "cannot be written" in err


def test_model_shows_the_plan(capfd: pytest.CaptureFixture[str]) -> None:
    base = str(Path(DEMO).parents[1] / "data" / "models" / "ragray-tiny")
    arguments = ["model", "-c", DEMO, "--set", f"train.base_model={base}", "--set", "output=/nonexistent/x"]
    code, out, _ = run(capfd, *arguments, "--json")
    tree = json.loads(out.splitlines()[-1])
    assert code == 0 and tree["fits"] and tree["work"] is None and tree["pace"] is None
    assert sorted(tree["stages"]) == ["0", "1", "2", "3"]
    code, out, _ = run(capfd, *arguments, "--set", "train.lora.method=dora")
    assert code == 0 and "adapter    DoRA, rank 16" in out and "> ZeRO-2, 2 workers" in out


def test_adapter_names_what_is_missing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capfd, "adapter", str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == EXIT_WORK and "has no adapter_config.json" in err


@pytest.mark.parametrize("command", ["adapter", "run"])
def test_a_file_in_place_of_the_reports_folder_is_told_before_the_work(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, err = run(capfd, command, str(tmp_path), "--out", str(out))
        assert code == 2 and f"{tmp_path / 'file'} is a file" in err
