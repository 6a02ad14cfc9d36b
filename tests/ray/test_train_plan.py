"""The plan at the start of the train stage."""

import threading
from pathlib import Path

import pytest

from ragray.config_train import TrainConfig
from ragray.distributed import train_group
from ragray.errors import ConfigError
from ragray.train.device import Device
from ragray.train.loop import TrainRun

pytestmark = pytest.mark.usefixtures("ray_local")
MODEL = str(Path(__file__).parents[2] / "data" / "models" / "ragray-tiny")


def test_a_training_that_cannot_fit_is_refused_before_it_starts(monkeypatch, tmp_path):
    settings = TrainConfig(base_model=MODEL, precision="fp32")
    run = TrainRun(settings, 0, MODEL, "unused", str(tmp_path), attempt="x")
    train_group._check_plan(run)
    monkeypatch.setattr(train_group, "worker_device", lambda settings: Device("cpu", "small", 1_000_000_000))
    with pytest.raises(ConfigError, match=r"the plan needs 1\.\d+ GB") as caught:
        train_group.train_on_ray(run)
    assert "--set train.gradient_checkpointing=true" in str(caught.value)


def test_one_thread_alone_joins_ray(monkeypatch, tmp_path):
    """A worker's GPU is asked in the cluster, for which the asking thread joins it."""
    asked = []

    def device(settings):
        asked.append(threading.current_thread())
        return Device("cpu", "large", 1 << 40)

    monkeypatch.setattr(train_group, "worker_device", device)
    settings = TrainConfig(base_model=MODEL, precision="fp32")
    train_group._check_plan(TrainRun(settings, 0, MODEL, "unused", str(tmp_path), attempt="x"))
    assert asked == [threading.main_thread()]
