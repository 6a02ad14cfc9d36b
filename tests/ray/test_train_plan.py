"""The plan at the start of the train stage: each worker checks that it fits in its own device."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ragray.config_train import TrainConfig
from ragray.distributed.train_group import train_on_ray
from ragray.errors import ConfigError
from ragray.train.loop import TrainRun

pytestmark = pytest.mark.usefixtures("ray_local")
MODEL = str(Path(__file__).parents[2] / "data" / "models" / "ragray-tiny")


def test_a_training_that_cannot_fit_is_refused_before_anything_is_loaded(tmp_path):
    """Rows of a thousand million tokens fit nowhere; the workers are not started again for it."""
    settings = TrainConfig(
        base_model=MODEL, precision="fp32", attention="sdpa", tokens_per_micro_batch=10**9, num_workers=2
    )
    examples = tmp_path / "examples.parquet"
    pq.write_table(pa.table({"example_id": ["a"]}), examples)
    before = set(ray.util.placement_group_table())
    with pytest.raises(ConfigError, match=r"the plan needs [\d,.]+ GB") as caught:
        train_on_ray(TrainRun(settings, 0, MODEL, str(examples), str(tmp_path), attempt="x"))
    assert "--set train.tokens_per_micro_batch=" in str(caught.value)
    assert len(set(ray.util.placement_group_table()) - before) == 1
    assert not list(tmp_path.glob("tokens-*/*.arrow")) and not (tmp_path / "checkpoints").exists()
