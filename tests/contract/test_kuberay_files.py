"""Files for Kubernetes: the schemas of Kubernetes and KubeRay, and that they agree with ragray and its Serve files."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from deployed import BUILT, KUBERAY, OVERLAYS, ROOT, cluster_specs, groups, one
from kubernetes_schemas import mistakes
from overlays import Tree, build

from ragray.config import ServeConfig
from ragray.config_engine import DeviceEngineConfig
from ragray.config_loading import validate_section
from ragray.distributed.devices import placement
from ragray.serve.app import AppArgs

JOBS = sorted((KUBERAY / "jobs").glob("*.yaml"))
INCREMENTAL = "NewClusterWithIncrementalUpgrade"


def document(path: Path) -> Tree:
    loaded: Tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def serve_config(overlay: str) -> Tree:
    loaded: Tree = yaml.safe_load(one(overlay, "RayService")["spec"]["serveConfigV2"])
    return loaded


def settings(overlay: str) -> ServeConfig:
    served = validate_section(AppArgs, serve_config(overlay)["applications"][0]["args"], overlay).serve
    assert served is not None
    return served


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_fit_the_schemas(overlay: str) -> None:
    for each in BUILT[overlay]:
        assert mistakes(each) == [], f"{each['kind']} {each['metadata']['name']}"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_jobs_fit_the_schemas_and_run_a_job_of_ours(path: Path) -> None:
    job = document(path)
    assert mistakes(job) == []
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": one("l4", "RayCluster")["metadata"]["name"]}
    program, script, *arguments = job["spec"]["entrypoint"].split()
    assert program == "python" and arguments[0] == "--config"
    assert (ROOT / Path(script).relative_to("/opt/source")).is_file()
    # These are for a cluster that KubeRay makes for the job; this one was there before.
    assert not {"backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec"} & set(job["spec"])


def _container(service: Tree) -> Tree:
    found: Tree = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return found


def _typo_of_kuberay(service: Tree) -> None:
    service["spec"]["rayClusterConfig"]["workerGroupSpec"] = []


def _unknown_strategy(service: Tree) -> None:
    service["spec"]["upgradeStrategy"]["type"] = "Rolling"


def _no_step(service: Tree) -> None:
    del service["spec"]["upgradeStrategy"]["clusterUpgradeOptions"]["stepSizePercent"]


def _text_for_a_number(service: Tree) -> None:
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplicas"] = "1"


def _number_for_a_text(service: Tree) -> None:
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _typo_of_a_pod(service: Tree) -> None:
    _container(service)["resource"] = {}


def _nameless_container(service: Tree) -> None:
    del _container(service)["name"]


def _probe_without_a_port(service: Tree) -> None:
    del _container(service)["livenessProbe"]["httpGet"]["port"]


@pytest.mark.parametrize(
    "spoil",
    [_typo_of_kuberay, _unknown_strategy, _no_step, _text_for_a_number, _number_for_a_text, _typo_of_a_pod,
     _nameless_container, _probe_without_a_port],
)  # fmt: skip
def test_the_schemas_find_mistakes(spoil: Callable[[Tree], None]) -> None:
    service = copy.deepcopy(one("l4", "RayService"))
    spoil(service)
    assert mistakes(service)


@pytest.mark.parametrize("kind", ["NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim", "ServiceAccount"])
def test_the_schemas_find_mistakes_in_kubernetes_own_kinds(kind: str) -> None:
    spoilt = copy.deepcopy(next(each for each in BUILT["l4"] if each["kind"] == kind))
    spoilt["spce"] = spoilt.pop("spec", {})
    assert mistakes(spoilt)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_the_same(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here")
    done = subprocess.run([kubectl, "kustomize", str(KUBERAY / "overlays" / overlay)], capture_output=True, check=True)

    def place(each: Tree) -> tuple[str, str]:
        return each["kind"], each["metadata"]["name"]

    assert sorted(yaml.safe_load_all(done.stdout), key=place) == sorted(BUILT[overlay], key=place)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_gets_the_serve_file_of_its_name(overlay: str) -> None:
    assert serve_config(overlay) == document(ROOT / "serve_configs" / f"{overlay}.yaml")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rays_autoscaler_knows_the_gpu_of_a_group(overlay: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    gpu = OVERLAYS[overlay]
    build_of_an_engine = placement(gpu, DeviceEngineConfig(num_cpus=4))
    for spec in cluster_specs(overlay):
        cluster = {"metadata": {"name": "x", "namespace": "ragray"}, "spec": spec}
        types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
        assert types["headgroup"]["resources"]["CPU"] == 0
        has = types[overlay]["resources"]
        assert has[f"accelerator_type:{gpu}"] == 1 and has["GPU"] >= build_of_an_engine["num_gpus"]
        assert has["CPU"] >= build_of_an_engine["num_cpus"]
        assert not any(key.startswith("accelerator_type") for key in types.get("cpu", {}).get("resources", {}))
    assert types[overlay]["min_workers"] >= 1, "the service answers at all times"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_worker_holds_a_generator_and_an_ingress(overlay: str) -> None:
    served, (group,) = settings(overlay), cluster_specs(overlay)[1]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    parts = {name: getattr(served.placement, name) for name in ("ingress", "generator")}
    assert all(part.accelerator_type == OVERLAYS[overlay] for part in parts.values())
    assert sum(part.num_cpus for part in parts.values()) <= int(limits["cpu"])
    assert served.generator_gpus == int(limits["nvidia.com/gpu"]) == 1
    assert all(part.autoscaling.max_replicas <= group["maxReplicas"] for part in parts.values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_asks_for_keys_and_drains_before_it_is_killed(overlay: str) -> None:
    served, spec = settings(overlay), one(overlay, "RayService")["spec"]
    assert serve_config(overlay)["http_options"] == {"host": "0.0.0.0", "port": 8000}  # checked against keys below
    assert served.limits.keys_file == "/run/ragray/keys.yaml" and not served.limits.allow_no_keys
    for group in groups(spec["rayClusterConfig"]):  # a check before the start runs on any node
        pod = group["template"]["spec"]
        assert {"name": "keys", "mountPath": "/run/ragray", "readOnly": True} in pod["containers"][0]["volumeMounts"]
        assert pod["initContainers"][0]["restartPolicy"] == "Always"  # beside the others, not before them
        assert pod["terminationGracePeriodSeconds"] > served.drain_s
    assert spec["rayClusterDeletionDelaySeconds"] > served.drain_s


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_upgrades_are_what_kuberay_allows(overlay: str) -> None:
    spec = one(overlay, "RayService")["spec"]
    strategy = spec["upgradeStrategy"]
    options = strategy["clusterUpgradeOptions"]
    assert strategy["type"] == INCREMENTAL and spec["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
    assert options["intervalSeconds"] > 0 and options["gatewayClassName"]


def test_pods_run_the_pinned_ray() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert {f"ray=={spec['rayVersion']}" for spec in cluster_specs("l4")} <= set(pins)


def test_helper_refuses_what_it_does_not_carry_out(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [], "namePrefix": "x-"}))
    with pytest.raises(ValueError, match="namePrefix"):
        build(tmp_path)
