"""Ray's launcher files: its own schema, its own scheduler on their node types, and what must not stand in them."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ragray.config_engine import DeviceEngineConfig
from ragray.distributed.devices import placement
from ragray.serve import throughput

ROOT = Path(__file__).parents[2]
AWS, LOCAL = ROOT / "cluster.yaml", ROOT / "deploy" / "cluster-local.yaml"
NODE_ENV = ROOT / "deploy" / "node.env"
GPUS = ("L4", "A100", "H100")
Tree = dict[str, Any]


def tree(path: Path) -> Tree:
    loaded: Tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def check(config: Tree) -> Tree:
    """What `ray up` does with a file before it calls a cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: Tree = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def node_env() -> dict[str, str]:
    lines = NODE_ENV.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


@pytest.mark.parametrize("path", [AWS, LOCAL], ids=lambda path: path.name)
def test_ray_takes_the_file(path: Path) -> None:
    assert check(tree(path))["cluster_name"]


def _typo(config: Tree) -> None:
    config["setup_comands"] = config.pop("setup_commands")


def _number_as_text(config: Tree) -> None:
    config["max_workers"] = "many"


def _no_provider(config: Tree) -> None:
    del config["provider"]["type"]


def _unknown_field_of_a_node_type(config: Tree) -> None:
    config["available_node_types"]["l4"]["max_worker"] = 3


def _half_a_gpu(config: Tree) -> None:
    config["available_node_types"]["l4"]["resources"]["GPU"] = 0.5


def _no_head(config: Tree) -> None:
    config["head_node_type"] = "heed"


def _more_wanted_than_allowed(config: Tree) -> None:
    config["available_node_types"]["cpu"]["min_workers"] = config["max_workers"] + 1


@pytest.mark.parametrize(
    "spoil",
    [_typo, _number_as_text, _no_provider, _unknown_field_of_a_node_type, _half_a_gpu, _no_head,
     _more_wanted_than_allowed],
)  # fmt: skip
def test_rays_check_finds_mistakes(spoil: Callable[[Tree], None]) -> None:
    config = tree(AWS)
    spoil(config)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
        check(config)


def launched(wanted: dict[str, Any], failed: tuple[str, ...] = ()) -> list[str]:
    """The node types that Ray's autoscaler starts on AWS for one task, `failed` ones having no capacity now."""
    from ray._common.utils import resources_from_ray_options
    from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(tree(AWS), skip_content_hash=True)
    request = ResourceRequestUtil.make(resources_from_ray_options(wanted))
    asked = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_worker_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([request]),
        recoverable_resource_availabilities=dict.fromkeys(failed, 0.0),
    )

    class Quiet(AutoscalerEventLogger):
        def __init__(self) -> None:
            super().__init__(None)

        def log_cluster_scheduling_update(self, *args: object, **named: object) -> None:
            pass

    reply = ResourceDemandScheduler(Quiet()).schedule(asked)
    assert not reply.infeasible_resource_requests
    return sorted(each.instance_type for each in reply.to_launch)


@pytest.mark.parametrize("gpu", GPUS)
def test_a_build_starts_a_spot_node_of_its_type_and_else_one_on_demand(gpu: str) -> None:
    wanted = placement(gpu, DeviceEngineConfig(num_cpus=4))
    spot = f"{gpu.lower()}_spot"
    assert wanted["accelerator_type"] == gpu
    assert launched(wanted) == [spot]
    assert launched(wanted, failed=(spot,)) == [gpu.lower()]


def test_work_without_a_gpu_starts_no_gpu_node() -> None:
    assert launched({"num_cpus": 8}) == ["cpu_spot"]
    assert launched({"num_cpus": 8}, failed=("cpu_spot",)) == ["cpu"]


def test_workers_start_from_zero_and_the_head_is_not_spot() -> None:
    types = check(tree(AWS))["available_node_types"]
    head = types.pop("head")
    assert head["resources"] == {"CPU": 0} and "InstanceMarketOptions" not in head["node_config"]
    for name, node in types.items():
        assert node["min_workers"] == 0 and node["max_workers"] > 0, name
        market = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
        assert (market == "spot") == name.endswith("_spot") == (node["labels"]["ray.io/market-type"] == "spot"), name
        twin = types[name.removesuffix("_spot")]
        assert node["resources"] == twin["resources"]
        assert node["node_config"]["InstanceType"] == twin["node_config"]["InstanceType"]


@pytest.mark.parametrize("gpu", GPUS)
def test_gpu_types_are_named_as_ray_finds_them(gpu: str) -> None:
    from ray.util import accelerators

    assert gpu == getattr(accelerators, f"NVIDIA_{gpu}")
    assert f"accelerator_type:{gpu}" in tree(AWS)["available_node_types"][gpu.lower()]["resources"]


@pytest.mark.parametrize("path", [AWS, LOCAL], ids=lambda path: path.name)
def test_the_token_is_named_and_nothing_is_opened(path: Path) -> None:
    config, text = tree(path), path.read_text(encoding="utf-8")
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not re.search(r"RAY_AUTH_TOKEN\b|\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)
    assert "IpPermissions" not in config["provider"].get("security_group", {})  # Ray's own rules: SSH, and the inside
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "ray start" not in command or ". ~/ragray/deploy/node.env" in command
    (start,) = (each for each in config["head_start_ray_commands"] if "ray start" in each)
    assert "--dashboard-host=127.0.0.1" in start and "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


@pytest.mark.parametrize("path", [AWS, LOCAL], ids=lambda path: path.name)
def test_nodes_get_pinned_packages_and_the_sources_alone(path: Path) -> None:
    config = tree(path)
    commands = config["setup_commands"] + config["head_setup_commands"]
    installs = [each for each in commands if "pip install" in each]
    for command in installs:
        named = re.findall(r"[\w-]+==[\w.]+", command)
        assert named or "--constraint ~/ragray/constraints.txt" in command, command
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = {pin for command in installs for pin in re.findall(r"torch==[\w.]+", command)}
    assert torch <= set(pins) and torch
    assert config["file_mounts"]["~/ragray"] == "." and {".git", ".venv", "artifacts"} <= set(config["rsync_exclude"])


def test_commands_are_shell() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    for config in (tree(AWS), tree(LOCAL)):
        for name in ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
            for command in config[name]:
                done = subprocess.run([bash, "-n", "-c", command], capture_output=True, text=True)
                assert done.returncode == 0, f"{command}: {done.stderr}"


def test_nodes_serve_with_the_throughput_settings() -> None:
    served = throughput._PLAIN | throughput._BEHIND_HAPROXY
    assert {name: value for name, value in node_env().items() if name.startswith("RAY_SERVE_")} == served
    assert node_env()["RAY_AUTH_MODE"] == "token"


def test_a_shell_reads_the_environment_as_written() -> None:
    script = f"set -a; . {shlex.quote(str(NODE_ENV))}; set +a; env"
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={}).stdout
    assert set(node_env().items()) <= {tuple(line.split("=", 1)) for line in read.splitlines()}


@pytest.mark.parametrize("name", ["ragray.Dockerfile", "tensorrt-llm.Dockerfile"])
def test_images_are_pinned_and_their_sources_reach_the_build(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    (base,) = re.findall(r"^FROM (\S+)$", text, re.MULTILINE)
    base = re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], base)
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", base) and not base.endswith(":latest"), base
    assert "-c /opt/source/constraints.txt" in text
    allowed = [line[1:].removesuffix("/**") for line in _ignored() if line.startswith("!")]
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists() and source in allowed, source
    assert _ignored()[0] == "*"  # all else stays out: history, artifacts, keys


def _ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
