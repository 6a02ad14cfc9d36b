"""The transformers engine on an NVIDIA GPU. Not yet run on hardware in this project."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
MODEL = ROOT / "data" / "models" / "ragray-tiny"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def test_it_answers_as_on_the_cpu() -> None:
    from ragray.engine.protocol import SamplingParams
    from ragray.engine.transformers_runtime import load_model_folder
    from ragray.engine.verification import fixed_prompts

    answers = []
    for device_type in ("cpu", "H200"):
        engine = load_model_folder(MODEL, 8, 0, device_type=device_type)
        prompts = fixed_prompts(engine.tokenizer)
        greedy = engine.generate(prompts, SamplingParams(max_new_tokens=24))
        sampled = engine.generate(prompts[:1], SamplingParams(max_new_tokens=24, temperature=0.8, seed=3))
        answers.append([answer.token_ids for answer in (*greedy, *sampled)])
        assert engine.info.device == device_type
        engine.close()
    assert answers[0] == answers[1]
