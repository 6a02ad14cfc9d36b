"""`ragray inspect`: its commands, and an artifact's folder in place of one."""

import json
from pathlib import Path

import pytest

from ragray import cli
from ragray.errors import EXIT_CONFIG

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
