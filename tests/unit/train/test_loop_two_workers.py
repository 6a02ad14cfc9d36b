"""Two workers against one: errors of one of them, bad steps, LoRA's variants and offload."""

import pytest

from ragray.config_train import LoraConfig, LossConfig
from ragray.train.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("process_group")

PLACES = {
    "settings": (1, "ragray.train.loop", "ready_settings", 1),
    "looking for checkpoints": (0, "ragray.train.loop", "Checkpoints.latest", 1),
    "examples": (1, "ragray.train.setup", "open_store", 1),
    "meter": (1, "ragray.train.loop", "build_meter", 1),
    "sinks": (0, "ragray.train.loop", "open_sinks", 1),
    "a step's figures": (1, "ragray.train.meter", "Meter.finish", 2),
    "the last step's figures": (1, "ragray.train.meter", "Meter.finish", 6),
    "a report": (0, "ragray.train.monitor", "History.progress", 1),
    "a share": (1, "ragray.train.writing", "write_shard", 1),
    "a checkpoint": (0, "ragray.train.checkpoint", "Checkpoints.publish", 1),
}
RESUMING = {
    "weights": (1, "ragray.train.checkpoint", "Checkpoint.weights", 1),
    "history": (1, "ragray.train.checkpoint", "Checkpoint.history", 1),
}


def told(run, pair, place, name="broken", **settings):
    said = []
    run(name, by=lambda run: said.extend(pair.answers(run, fails=place)), **settings)
    return said


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_one_worker_is_the_error_of_both(run, pair, tmp_path, place):
    """A worker that waited for one that is gone would answer with gloo's timeout in place of the error."""
    rank, _, path, _ = PLACES[place]
    name = path.rpartition(".")[2]
    assert told(run, pair, PLACES[place]) == 2 * [f"WorkError: {name} fails on this worker alone"], rank
    if place == "a step's figures":
        found = Checkpoints(tmp_path / "broken", 9).latest()
        assert found is None or found.state().step < 4, "told with the step after"


@pytest.mark.parametrize("place", RESUMING)
def test_an_error_while_one_worker_resumes_is_the_error_of_both(run, pair, tmp_path, place):
    run("broken", by=pair.train, max_steps=2)
    folder = tmp_path / "broken" / "checkpoints" / "step-00000002"
    state = folder / "state.json"
    state.write_text(state.read_text().replace('"total_steps": 2', '"total_steps": 6'))
    assert told(run, pair, RESUMING[place]) == 2 * [f"WorkError: {place} fails on this worker alone"]
    assert Checkpoints(tmp_path / "broken", 9).latest().state().step == 2


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_two_workers_leave_out_the_steps_of_one(run, pair, poisoned, policy):
    model, write, _ = poisoned
    settings = {
        "model": model, "examples": write("all"), "on_bad_step": policy, "epochs": 1, "global_batch_examples": 2,
        "schedule": "constant", "warmup_share": 0.0, "keep_best": 0,
    }  # fmt: skip
    one, two = run("one", **settings), run("two", by=pair.train, **settings)
    (bad,), (also,) = one.state().bad_steps, two.state().bad_steps
    assert (bad.step, bad.left_out_from, bad.reason) == (also.step, also.left_out_from, also.reason)
    assert set(also.examples) <= set(bad.examples), "two workers make smaller rows"
    assert one.state().updates == two.state().updates == (5 if policy == "skip" else 4)
    assert two.history().losses == pytest.approx(one.history().losses, abs=1e-4)


SHARED = {
    "rslora": {"lora": LoraConfig(use_rslora=True)},
    "dora": {"lora": LoraConfig(method="dora")},
    "tokens": {"lora": LoraConfig(trainable_tokens=("<|end|>", 7))},
    "dpo": {"loss": LossConfig(kind="dpo")},
    "offload": {"offload": "optimizer"},
    "offload of parameters": {"offload": "optimizer_and_parameters", "zero_stage": 3},
    "no zero": {"zero_stage": 0},
}


@pytest.mark.parametrize("name", SHARED)
def test_two_workers_give_the_losses_of_one(run, pair, name):
    one, two = run("one", **SHARED[name]), run("two", by=pair.train, **SHARED[name])
    assert two.history().losses == pytest.approx(one.history().losses, abs=1e-4)
    assert two.history().valid_losses == pytest.approx(one.history().valid_losses, abs=1e-4)


def test_two_workers_in_bf16_without_zero_stay_near_one(run, pair):
    settings = {"zero_stage": 0, "precision": "bf16"}
    one, two = run("one", **settings), run("two", by=pair.train, **settings)
    assert two.history().losses == pytest.approx(one.history().losses, rel=1e-2)
