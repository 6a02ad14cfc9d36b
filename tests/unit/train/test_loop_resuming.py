"""Runs that are cut: at any step, in the middle of writing, by a full disk, between worlds of different size."""

import shutil
from pathlib import Path

import pytest

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig, LossConfig, ValidationConfig
from ragray.errors import WorkError
from ragray.train import loop
from ragray.train.checkpoint import Checkpoints
from ragray.train.loop import train
from ragray.train.validations import Validations
from ragray.train.writing import CheckpointWriter

pytestmark = pytest.mark.usefixtures("process_group")


def copy(tmp_path, step, source, target):
    folder = Path("checkpoints") / f"step-{step:08d}"
    shutil.copytree(tmp_path / source / folder, tmp_path / target / folder)


def losses(checkpoint):
    return checkpoint.history().losses + checkpoint.history().valid_losses


def test_a_kill_after_any_step_changes_nothing(run, tmp_path):
    settings = {"checkpoint_every_steps": 1, "lora": LoraConfig(dropout=0.1)}
    whole = run("whole", **settings)
    for step in range(1, 6):
        copy(tmp_path, step, "whole", f"cut{step}")
        resumed = run(f"cut{step}", **settings)
        assert resumed.history().records == whole.history().records
        assert folder_digest(resumed.folder / "adapter") == folder_digest(whole.folder / "adapter")


@pytest.mark.parametrize("stages", [(2, 0, 3), (3, 2, 0)])
def test_a_run_goes_through_worlds_of_two_one_and_two_workers(run, pair, tmp_path, stages):
    first, second, third = stages
    settings = {"checkpoint_every_steps": 1, "weight_decay": 0.1}
    plain = run("plain", zero_stage=0, **settings)
    two = run("two", by=pair.train, zero_stage=first, **settings)
    assert losses(two) == pytest.approx(losses(plain), abs=1e-5)
    copy(tmp_path, 2, "two", "one")
    one = run("one", zero_stage=second, **settings)
    assert losses(one) == pytest.approx(losses(plain), abs=1e-5)
    copy(tmp_path, 4, "one", "again")
    again = run("again", by=pair.train, zero_stage=third, **settings)
    assert losses(again) == pytest.approx(losses(plain), abs=1e-5)
    assert [record.step for record in again.history().records] == list(range(7))


def test_a_store_that_the_first_worker_cannot_make_is_the_error_of_all(run, pair, tmp_path, make_model):
    broken = make_model(tmp_path / "broken")
    (broken / "chat_template.jinja").unlink()
    said = []
    run("broken_run", model=broken, by=lambda run: said.extend(pair.answers(run)))
    assert said[0] == said[1]
    assert "EngineError" in said[0]
    assert "no chat template" in said[0]


def test_another_number_of_workers_takes_up_the_store_and_makes_it_where_it_is_damaged(run, pair, tmp_path):
    settings = {"checkpoint_every_steps": 2, "loss": LossConfig(kind="dpo")}
    whole = run("whole", **settings)
    copy(tmp_path, 2, "whole", "cut")
    (store,) = (tmp_path / "whole").glob("tokens-*")
    copied = shutil.copytree(store, tmp_path / "cut" / store.name)
    (part,) = copied.glob("*.arrow")
    part.write_bytes(part.read_bytes()[::-1])
    resumed = run("cut", by=pair.train, **settings)
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)
    assert resumed.state().counts == whole.state().counts
    assert folder_digest(copied) == folder_digest(store)


def test_two_workers_heed_a_request_to_stop_at_the_same_step(run, pair, tmp_path):
    (tmp_path / "asked" / "validation").mkdir(parents=True)
    Validations(tmp_path / "asked").request_stop(0)
    state = run("asked", by=pair.train, validation=ValidationConfig(asynchronous=True)).state()
    assert (state.step, state.finished) == (1, True)


def test_a_full_disk_of_one_worker_is_the_error_of_all(run, pair, tmp_path):
    said = []
    run("full", by=lambda run: said.extend(pair.answers(run, full_disk=1)), checkpoint_every_steps=2)
    assert said[0] == said[1]
    assert "WorkError: training: a checkpoint could not be written" in said[0]
    assert "No space left" in said[0]
    assert Checkpoints(tmp_path / "full", 9).latest() is None


def test_a_checkpoint_that_cannot_be_written_ends_the_run(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    with pytest.raises(WorkError, match="a checkpoint could not be written"):
        run("run")


def test_a_failed_write_ends_the_run_before_the_next_checkpoint(run, tmp_path, monkeypatch):
    """Of six steps, checkpoints are due after the third and the sixth; the fourth waits until the first has failed."""
    made, steps = [], []

    class Writer(CheckpointWriter):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    def notice():
        steps.append(len(steps) + 1)
        if len(steps) == 4:
            made[0]._share.exception()
        return False

    monkeypatch.setattr(loop, "CheckpointWriter", Writer)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    with pytest.raises(WorkError, match="a checkpoint could not be written"):
        run("run", by=lambda run: train(run, notice=notice), checkpoint_every_steps=3, keep_best=0)
    assert len(steps) in (4, 5), "seen in the fourth step, or else in the fifth"


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(run, group_of, tmp_path):
    whole = run("whole")
    group = group_of(1, tmp_path / "store")
    cut = run("cut", by=lambda run: group.answers(run, die_at="step-00000004.x"))
    group.end()
    assert cut.state().step < 4
    assert list((tmp_path / "cut" / "checkpoints").glob(".step-00000004*"))
    resumed = run("cut")
    assert not list((tmp_path / "cut" / "checkpoints").glob(".*")), "what the dead attempt left is cleared"
    assert resumed.history().records == whole.history().records
    assert folder_digest(resumed.folder / "adapter") == folder_digest(whole.folder / "adapter")


def test_a_worker_that_is_still_writing_gives_no_part_of_a_checkpoint_its_name(tmp_path, monkeypatch):
    """Its node was lost, and the next group starts before it has ended."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    aside = checkpoints.aside(4, "old")
    aside.mkdir(parents=True)
    refused = []

    def remove(folder, **unused):
        with pytest.raises(FileNotFoundError) as caught:
            checkpoints.publish(aside, 4)
        refused.append(caught)
        rmtree(folder)

    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", remove)
    checkpoints.clear_dead()
    assert len(refused) == 1
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_notice_writes_a_whole_checkpoint_at_once(run, tmp_path):
    seen = []

    def notice():
        seen.append(sorted(path.name for path in (tmp_path / "run").glob("checkpoints/*")))
        return len(seen) >= 2

    last = run(by=lambda run: train(run, notice=notice), checkpoint_every_steps=99, keep_best=0)
    assert seen == [[], []], "asked once a step, and no more once a checkpoint was made"
    assert sorted(path.name for path in last.folder.parent.iterdir()) == ["step-00000002", "step-00000006"]
