"""Every YAML loads, every documented command exists, every job is a real entry."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ragray.config_loading import load_config

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "prepare", "index", "augment", "calibrate", "train", "merge", "quantize", "build-engine", "evaluate", "run",
    "demo", "ask", "search", "serve", "inspect", "lineage", "live", "tune", "keys",
}  # fmt: skip


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", pattern], cwd=ROOT, capture_output=True)
    return [ROOT / line for line in listed.stdout.decode().splitlines()]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_configs_load(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("path", tracked("*.yaml") + tracked("*.yml"), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_yaml_parses(path: Path) -> None:
    assert list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_files_that_others_rely_on_are_where_they_look() -> None:
    for name in ("cluster.yaml", ".dockerignore", "constraints.txt", "deploy/node.env", "serve_configs/local.yaml"):
        assert (ROOT / name).is_file(), name
    served = {path.stem for path in (ROOT / "serve_configs").glob("*.yaml")} - {"local", "adapters", "sharded"}
    assert served == {path.name for path in (ROOT / "deploy/kuberay/overlays").iterdir()} == {"l4", "a100", "h100"}


@pytest.mark.parametrize("path", sorted((ROOT / "serve_configs").glob("*.yaml")), ids=lambda p: p.name)
def test_serve_configs_fit_rays_schema_and_the_app(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from ragray.config_loading import validate_section
    from ragray.serve.app import AppArgs

    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    schema = ServeDeploySchema.model_validate(tree)
    assert set(tree) <= set(ServeDeploySchema.model_fields), "Ray ignores unknown keys"
    for application in schema.applications:
        module, _, name = application.import_path.partition(":")
        assert hasattr(__import__(module, fromlist=[name]), name)
        validate_section(AppArgs, application.args, path.name)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_exist(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ragray.cli", command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda p: p.name)
def test_jobs_start(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout or "--data" in done.stdout


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_documented_commands_and_settings_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```.*?\n(.*?)```", text, flags=re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    for command in re.findall(r"^\s*(?:\$ )?ragray ([a-z][a-z-]*)", code, flags=re.MULTILINE):
        assert command in COMMANDS, f"{path.name}: ragray {command}"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", code, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{path.name}: make {target}"
    for field, value in re.findall(r"--set ([a-z_]+(?:\.[a-z0-9_]+)+)=([^\s`\"']+)", code):
        if (field, value) != ("a.b", "c"):  # stands for any field
            load_config(ROOT / "configs" / "demo.yaml", [f"{field}={value}"])
    for job in re.findall(r"jobs/[a-z_]+\.py", text):
        assert (ROOT / job).exists(), f"{path.name}: {job}"
    for link in re.findall(r"\]\(([^)#:]+\.(?:md|yaml|py))\)", text):
        assert (path.parent / link).exists(), f"{path.name}: {link}"
