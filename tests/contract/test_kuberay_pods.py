"""What the pods of deploy/kuberay may do, who reaches them, and what they are given."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from deployed import BUILT, OVERLAYS, ROOT, cluster_specs, groups, one, pods
from overlays import Tree

from ragray.serve.keys import ApiKey, hash_of, read_keys, write_keys


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlay: str) -> None:
    """The rules of Kubernetes' level "restricted", which the namespace enforces, and a read-only root."""
    assert one(overlay, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for template in pods(overlay):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"] + pod.get("initContainers", []):
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False and allowed["readOnlyRootFilesystem"] is True
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert not container["image"].endswith(":latest") and ":" in container["image"]
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret", "projected"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_autoscaler_may_ask_kubernetes(overlay: str) -> None:
    accounts = [each for each in BUILT[overlay] if each["kind"] == "ServiceAccount"]
    assert all(each["automountServiceAccountToken"] is False for each in accounts)
    for spec in cluster_specs(overlay):
        (mount,) = spec["autoscalerOptions"]["volumeMounts"]
        assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
        for group in groups(spec):
            pod = group["template"]["spec"]
            assert pod["automountServiceAccountToken"] is False
            assert pod["serviceAccountName"] in {each["metadata"]["name"] for each in accounts}
            mounted = {each["name"] for container in pod["containers"] for each in container["volumeMounts"]}
            assert mount["name"] not in mounted
        heads = spec["headGroupSpec"]["template"]["spec"]["volumes"]
        assert mount["name"] in {volume["name"] for volume in heads}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_named_not_written(overlay: str) -> None:
    assert not [each for each in BUILT[overlay] if each["kind"] == "Secret"]
    for spec in cluster_specs(overlay):
        assert spec["authOptions"] == {"mode": "token", "secretName": "ragray-ray-token"}
        assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)  # KubeRay's condition
    assert "RAY_AUTH_TOKEN" not in json.dumps(BUILT[overlay])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_what_they_need(overlay: str) -> None:
    for template in pods(overlay):
        pod, ray = template["spec"], template["spec"]["containers"][0]
        assert ray["resources"]["requests"] == ray["resources"]["limits"] and {"cpu", "memory"} <= set(
            ray["resources"]["limits"]
        )
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(ray)
        assert {"configMapRef": {"name": "ragray-node-env"}} in ray["envFrom"]
        (shared,) = (each["emptyDir"] for each in pod["volumes"] if each["name"] == "shared-memory")
        assert shared["medium"] == "Memory" and _gib(shared["sizeLimit"]) < _gib(ray["resources"]["limits"]["memory"])
        volumes = {each["name"] for each in pod["volumes"]}
        mounts = {each["mountPath"]: each["name"] for each in ray["volumeMounts"]}
        assert {"/mnt/ragray", "/dev/shm", "/tmp"} <= set(mounts) and set(mounts.values()) <= volumes
        assert mounts["/dev/shm"] == "shared-memory"


def _gib(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity[:-2])


def test_pods_get_the_environment_of_other_nodes() -> None:
    lines = (ROOT / "deploy" / "node.env").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert one("l4", "ConfigMap")["data"] == {name: value.strip('"') for name, value in pairs}


def selected(overlay: str, selector: Tree) -> list[Tree]:
    wanted = selector["matchLabels"].items()
    return [each for each in pods(overlay) if wanted <= each["metadata"]["labels"].items()]


def test_budgets_count_pods_as_kuberays_can_be_counted() -> None:
    budgets = [each["spec"] for each in BUILT["l4"] if each["kind"] == "PodDisruptionBudget"]
    for budget in budgets:
        assert set(budget) == {"minAvailable", "selector"} and isinstance(budget["minAvailable"], int)
        assert len(selected("l4", budget["selector"])) == 1
    assert len(budgets) == 3


def open_ports(template: Tree) -> set[tuple[str, int]]:
    """Where a pod listens for others than the pods of Ray: (who, port)."""
    labels, found = template["metadata"]["labels"].items(), set()
    for policy in (each for each in BUILT["l4"] if each["kind"] == "NetworkPolicy"):
        if not policy["spec"]["podSelector"]["matchLabels"].items() <= labels:
            continue
        for rule in policy["spec"]["ingress"]:
            inside = [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "ragray"}}}]
            if rule["from"] != inside:
                found |= {(policy["metadata"]["name"], port["port"]) for port in rule["ports"]}
    return found


def test_rays_ports_are_open_inside_alone() -> None:
    for template in pods("l4"):
        labels = template["metadata"]["labels"]
        expected = {("ragray-metrics", 8080)}
        if labels["ragray/node"] == "head":
            expected |= {("ragray-operator", 8265)}
        if labels["app.kubernetes.io/component"] == "serving":
            expected |= {("ragray-http", 8000)}
        assert open_ports(template) == expected
        covered = [each for each in BUILT["l4"] if each["metadata"]["name"] == "ragray-inside"]
        assert covered[0]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert covered[0]["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_keys_copier_follows_the_secret(tmp_path: Path) -> None:
    """The container's own script, on folders of the test: ragray takes the copy; a changed Secret is copied again."""
    pod = one("l4", "RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    script = pod["initContainers"][0]["command"][2]
    secrets, keys = tmp_path / "secrets", tmp_path / "keys"
    secrets.mkdir()
    keys.mkdir()
    script = script.replace("/secrets/", f"{secrets}/").replace("/keys/", f"{keys}/").replace("sleep 5", "sleep 0.05")
    given, copied = secrets / "keys.yaml", keys / "keys.yaml"

    def put(*names: str) -> None:
        write_keys(tmp_path / "new.yaml", [ApiKey(name=name, sha256=hash_of(name)) for name in names])
        (tmp_path / "new.yaml").chmod(0o440)
        (tmp_path / "new.yaml").replace(given)

    def names() -> list[str]:
        deadline = time.monotonic() + 20
        while not copied.exists() or copied.read_bytes() != given.read_bytes():
            assert time.monotonic() < deadline, "nothing was copied"
            time.sleep(0.02)
        return [key.name for key in read_keys(copied)]

    put("ann")
    running = subprocess.Popen(["sh", "-c", script], env={"PATH": os.environ["PATH"]})
    try:
        assert names() == ["ann"]
        put("ann", "bob")
        assert names() == ["ann", "bob"]
    finally:
        running.kill()
        running.wait()
