"""Quantized checkpoints are read back and compared; what was saved after a forward pass would not pass."""

from pathlib import Path

import pytest
import torch

from ragray.artifact import file_digest
from ragray.engine import quantize as module
from ragray.engine.protocol import SamplingParams
from ragray.engine.quantize import divergence, quantize, weight_bytes
from ragray.engine.transformers_runtime import load_model_folder
from ragray.errors import EngineError


def test_divergence_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    kl, agreement = divergence([p], [q])
    by_hand = (0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(0.5 / 0.75).log()) / 2  # second row: 0
    assert kl == pytest.approx(float(by_hand))
    assert agreement == 0.5
    assert divergence([p], [p]) == (0.0, 1.0)


def test_int8_is_saved_whole_smaller_close_and_the_same_each_time(model_folder: Path, tmp_path: Path) -> None:
    record = quantize("bitsandbytes_int8", model_folder, tmp_path / "a")
    assert 0 < record.kl_nats < 0.2
    assert record.argmax_agreement > 0.8
    assert record.bytes == weight_bytes(tmp_path / "a") < record.full_bytes == weight_bytes(model_folder)
    module.METHODS["bitsandbytes_int8"](model_folder, tmp_path / "b")
    assert file_digest(tmp_path / "a" / "model.safetensors") == file_digest(tmp_path / "b" / "model.safetensors")
    engine = load_model_folder(tmp_path / "a", batch_size=2, threads=1)
    assert engine.info.weights == "bitsandbytes_int8"
    assert engine.generate([[5, 6, 7]], SamplingParams(max_new_tokens=4))[0].prompt_tokens == 3
    engine.close()


def test_damaged_weights_are_noticed_when_read_back(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(model: Path, out: Path) -> None:
        loaded = module.load_model(model)
        for weight in loaded.parameters():
            weight.data = weight.data.roll(1, -1)
        loaded.save_pretrained(out)

    monkeypatch.setattr(module, "METHODS", {"damaging": damaging})
    with pytest.raises(EngineError, match="differs from the full one by"):
        quantize("damaging", model_folder, tmp_path)


def test_an_unknown_method_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no quantization method 'abacus'"):
        quantize("abacus", model_folder, tmp_path)
