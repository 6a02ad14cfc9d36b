"""bitsandbytes: saved before any forward, loaded equal bit for bit; saved after one, refused.

The trap: the first forward pass repacks NF4 weights in place on CPUs with AVX512-BF16, and they are saved wrongly.
"""

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from quantize_request import make_request
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from ragray.engine.quantize_methods import LOCAL, save_fresh
from ragray.engine.transformers_runtime import load_model, load_model_folder
from ragray.engine.weight_format import weights_of
from ragray.errors import EngineError

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
repacks = pytest.mark.skipif(not has_avx512bf16(), reason="this CPU has no AVX512-BF16: nothing is repacked")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers are wide enough to be repacked: blocks of 32 rows and 64 columns."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def load_nf4(folder: Path, double: bool = True):
    options = BitsAndBytesConfig(**NF4, bnb_4bit_use_double_quant=double)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=options, dtype=torch.float32)


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("name", ["bitsandbytes_int8", "bitsandbytes_nf4"])
def test_what_is_saved_is_what_was_quantized_bit_for_bit(name: str, wide: Path, tmp_path: Path) -> None:
    LOCAL[name].quantize(make_request_of(name, wide, tmp_path))
    assert weights_of(tmp_path) == name
    options = {"load_in_8bit": True} if name == "bitsandbytes_int8" else NF4 | {"bnb_4bit_use_double_quant": True}
    unsaved = AutoModelForCausalLM.from_pretrained(
        wide, quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32
    )
    reloaded = load_model(tmp_path)
    assert torch.equal(logits_of(reloaded), logits_of(unsaved))
    assert not torch.equal(logits_of(reloaded), logits_of(load_model(wide)))


def make_request_of(name: str, model: Path, out: Path):
    """A request without material: what is only quantized needs none."""
    from ragray.engine.quantize_protocol import Material, Request

    return Request(name, str(model), str(out), Material((), (), ()), 1, (2,), 1, 1)


def test_a_quantized_folder_answers_as_an_engine(model_folder: Path, tmp_path: Path) -> None:
    from ragray.engine.protocol import SamplingParams
    from ragray.engine.quantize import copy_companions

    LOCAL["bitsandbytes_nf4"].quantize(make_request("bitsandbytes_nf4", model_folder, tmp_path))
    copy_companions(model_folder, tmp_path)
    engine = load_model_folder(tmp_path, batch_size=2, threads=1)
    assert engine.info.weights == "bitsandbytes_nf4"
    assert engine.generate([[5, 6, 7]], SamplingParams(max_new_tokens=4))[0].prompt_tokens == 3
    engine.close()


@repacks
@pytest.mark.parametrize("double", [True, False])
def test_a_model_that_was_run_is_not_saved(double: bool, wide: Path, tmp_path: Path) -> None:
    model = load_nf4(wide, double)
    save_fresh(model, tmp_path / "fresh")
    logits_of(model.eval())
    with pytest.raises(EngineError, match="was repacked by a forward pass, and would be saved wrongly"):
        save_fresh(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@repacks
def test_the_trap_is_still_there(wide: Path, tmp_path: Path) -> None:
    """When this fails, bitsandbytes was mended, and `save_fresh` may go."""
    model = load_nf4(wide, double=False)
    expected = logits_of(model.eval())
    model.save_pretrained(tmp_path)
    found = logits_of(load_model(tmp_path))
    assert float((found - expected).norm() / expected.norm()) > 0.05
