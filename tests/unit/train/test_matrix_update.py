"""The figures of LoRA's matrix update: planted ranks and angles, and numpy's values of the whole matrix."""

import json
import math

import numpy as np
import pytest
import torch

from ragray.artifact import folder_digest
from ragray.config_train import LoraConfig
from ragray.errors import ArtifactError, EngineError
from ragray.train import matrix_update
from ragray.train.adapter import LoraLayer, read_adapter
from ragray.train.base_record import write_base_record
from ragray.train.loading import load_model
from ragray.train.lora import attach_lora, save_adapter, trainable
from ragray.train.matrix_update import (
    change,
    changes,
    effective_rank,
    energy_rank,
    inspect_update,
    principal_angles,
    row_space,
    singular_values,
    top_right_vectors,
    weight_reader,
)
from ragray.train.update_report import LayerUpdate, report_adapter, suggest_rank


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_singular_values_are_those_of_the_whole_matrix():
    a, b = random(5, 40), random(30, 5, seed=1)
    whole = np.linalg.svd((b.double() @ a.double()).numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(a, b).numpy(), whole[:5], rtol=1e-12)


def test_a_rank_above_the_matrix_is_no_trouble():
    a, b = random(8, 6), random(4, 8, seed=1)
    whole = np.linalg.svd((b.double() @ a.double()).numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(a, b).numpy(), whole, rtol=1e-12)


def test_a_planted_rank_of_two_has_effective_rank_two():
    """Two equal singular values in four dimensions of room."""
    right, left = np.linalg.qr(random(40, 2).numpy())[0], np.linalg.qr(random(30, 2, seed=1).numpy())[0]
    a = torch.tensor(np.vstack([right.T, np.zeros((2, 40))]))
    b = torch.tensor(np.hstack([left * 3, random(30, 2, seed=2).numpy()]))
    values = singular_values(a, b)
    torch.testing.assert_close(values, torch.tensor([3.0, 3.0, 0.0, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)
    assert effective_rank(values) == pytest.approx(2.0, abs=1e-5)
    assert energy_rank(values) == 2


def test_effective_and_energy_rank_by_hand():
    values = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert effective_rank(values) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert energy_rank(values) == 1, "9 of 10 is 90 %"
    assert energy_rank(torch.tensor([3.0, 1.01])) == 2
    assert energy_rank(torch.ones(10)) == 9
    assert effective_rank(torch.zeros(3)) == 0 == energy_rank(torch.zeros(3))


def test_angles_of_planted_subspaces():
    weight = torch.diag(torch.arange(8, 0, -1).float())  # its top right singular vectors are e1, e2, ...
    top, spectral = top_right_vectors(weight, 2)
    assert spectral == pytest.approx(8.0)
    rows = torch.eye(8)
    within = row_space(torch.stack([rows[0] + rows[1], 5 * rows[1]]))
    assert principal_angles(within, top) == pytest.approx([0.0, 0.0], abs=1e-5)
    assert principal_angles(row_space(rows[[4, 6]]), top) == pytest.approx([90.0, 90.0])
    mixed = row_space(torch.stack([rows[0], math.cos(math.pi / 6) * rows[1] + 0.5 * rows[7]]))
    assert principal_angles(mixed, top) == pytest.approx([0.0, 30.0], abs=1e-5)


def test_row_space_leaves_out_what_is_not_there():
    rows = torch.eye(6)
    assert row_space(torch.stack([rows[0], 2 * rows[0], rows[3]])).shape == (6, 2)


def test_the_top_of_a_large_matrix_is_that_of_the_exact_one(monkeypatch):
    decay = torch.diag(0.8 ** torch.arange(60).float())
    weight = torch.linalg.qr(random(80, 60)).Q @ decay @ torch.linalg.qr(random(60, 60, seed=1)).Q.T
    exact, largest = top_right_vectors(weight, 4)
    monkeypatch.setattr(matrix_update, "_EXACT_UP_TO", 10)
    found, spectral = top_right_vectors(weight, 4)
    assert spectral == pytest.approx(largest, rel=1e-5)
    assert max(principal_angles(exact, found)) < 0.1


def layer(seed=0, name="model.layers.3.self_attn.q_proj.weight", magnitude=None):
    return LoraLayer(name, random(4, 24, seed=seed), random(16, 4, seed=seed + 1) * 0.05, 2.0, magnitude)


@pytest.mark.parametrize("dora", [False, True])
def test_norms_of_w_and_of_the_update(dora):
    weight = random(16, 24, seed=5)
    lora = layer(magnitude=torch.linalg.vector_norm(weight, dim=1) * 1.5 if dora else None)
    found = inspect_update(lora, weight)
    delta = 2.0 * lora.b @ lora.a
    assert (found.layer, found.module, found.shape, found.rank) == (3, "q_proj", (16, 24), 4)
    assert found.weight_norm == pytest.approx(float(torch.linalg.matrix_norm(weight)))
    assert found.weight_spectral == pytest.approx(float(torch.linalg.matrix_norm(weight, 2)))
    assert found.update_norm == pytest.approx(float(torch.linalg.matrix_norm(delta)))
    assert found.update_spectral == pytest.approx(float(torch.linalg.matrix_norm(delta, 2)))
    assert found.random_angle == pytest.approx(math.degrees(math.acos((4 / 24) ** 0.5)))
    assert found.merge_error < 1e-6 and found.cast_loss is None
    assert found.length_change == (pytest.approx(0.5) if dora else None)


def test_rounding_to_the_bases_format_loses_part_of_the_update():
    weight = random(16, 24, seed=5).bfloat16()
    tiny = LoraLayer("x.q_proj.weight", random(4, 24), random(16, 4, seed=1) * 1e-5, 1.0)
    assert inspect_update(tiny, weight).cast_loss > 0.5, "less than half a unit in the last place"
    assert inspect_update(layer(), weight).cast_loss < 0.05


def test_a_merge_that_breaks_the_law_is_an_error(monkeypatch):
    monkeypatch.setattr(LoraLayer, "merged", lambda self, weight: weight + 0.9 * self.delta())
    with pytest.raises(EngineError, match="PEFT's merge differs"):
        inspect_update(layer(), random(16, 24, seed=5))


def test_change_is_the_norm_of_the_difference():
    first, second = layer(0), layer(7)
    assert change(first, second) == pytest.approx(float(torch.linalg.matrix_norm(second.delta() - first.delta())))
    assert change(first, first) == pytest.approx(0.0, abs=1e-6)


def updates_of(*energy_ranks, rank=16):
    found = inspect_update(layer(), random(16, 24, seed=5))
    fields = {name: getattr(found, name) for name in LayerUpdate.__dataclass_fields__}
    return [LayerUpdate(**{**fields, "rank": rank, "energy_rank": value}) for value in energy_ranks]


@pytest.mark.parametrize(
    ("energy_ranks", "rank"),
    [
        ((3,) * 9 + (16,), 4),
        ((3,) * 8 + (16,) * 2, 32),
        ((9,) * 10, 16),
        ((12,) * 10, 16),
        ((13,) * 10, 32),
        ((0,), 16),
        ((0, 1), 1),
    ],
)
def test_the_suggested_rank(energy_ranks, rank):
    assert suggest_rank(updates_of(*energy_ranks)).rank == rank


@pytest.fixture
def trained(tiny_model, tmp_path):
    """A train artifact's folder, and two checkpoints, with random adapters."""
    settings = LoraConfig(rank=4, alpha=8)
    for number, folder in enumerate(["artifact", "checkpoints/step-00000002", "checkpoints/step-00000004"]):
        model = attach_lora(load_model(tiny_model, torch.float32), settings, seed=1)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(number))
        weights = {name: p.detach() for name, p in trainable(model).items()}
        save_adapter(weights, settings, str(tiny_model), tmp_path / folder / "adapter")
    write_base_record(tmp_path / "artifact" / "base_model.json", str(tiny_model), tiny_model)
    return tmp_path


def test_the_report_of_a_train_artifact(trained, tiny_model, tmp_path):
    for out in ("a", "b"):
        suggestion = report_adapter(trained / "artifact", trained / "checkpoints", tmp_path / out)
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    tree = json.loads((tmp_path / "a" / "update.json").read_text())
    assert len(tree["layers"]) == 14 and tree["suggestion"]["rank"] == suggestion.rank
    first = read_adapter(trained / "artifact" / "adapter").layers[0]
    weight = weight_reader(tiny_model)(first.name)
    assert tree["layers"][0]["weight_norm"] == pytest.approx(float(torch.linalg.matrix_norm(weight)))
    markdown = (tmp_path / "a" / "report.md").read_text()
    for chart in ("relative", "effective_rank", "energy_rank", "angle", "spectra", "changes"):
        assert f"charts/{chart}.svg" in markdown and (tmp_path / "a" / "charts" / f"{chart}.svg").is_file()
    assert [step["step"] for step in tree["checkpoints"]] == [2] * 7 + [4] * 7
    assert [step["change"] is None for step in tree["checkpoints"]] == [True] * 7 + [False] * 7


def test_an_adapter_alone_names_its_base(trained, tmp_path):
    report_adapter(trained / "checkpoints" / "step-00000002" / "adapter", None, tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "update.json").read_text())["layers"]) == 14


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", b"{", r"adapter_config\.json is damaged"),
        ("adapter_config.json", b'{"peft_type": "LORA", "lora_alpha": 8}', "does not say r"),
        ("adapter_model.safetensors", b"cut", r"adapter_model\.safetensors is damaged"),
    ],
)
def test_a_damaged_adapter_is_an_error_of_ours(trained, file, content, message):
    folder = trained / "artifact" / "adapter"
    (folder / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_adapter(folder)


def test_what_is_missing_is_named(trained, tiny_model, tmp_path):
    with pytest.raises(ArtifactError, match=r"adapter_config\.json"):
        report_adapter(tmp_path, None, tmp_path / "out")
    with pytest.raises(ArtifactError, match="no checkpoint"):
        changes(trained / "artifact")
    with pytest.raises(ArtifactError, match="has no weight nowhere"):
        weight_reader(tiny_model)("nowhere")
    with pytest.raises(ArtifactError, match="does not fit this base model"):
        inspect_update(layer(), random(16, 25))
