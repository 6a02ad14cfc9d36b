"""What a stage's key covers: code that decides its results is named in `Stage.code`."""

import pytest

from ragray.distributed import build_engine, evaluate, merge, quantize, train

ALSO = {  # module: what renders, or draws, through it
    "prompt": "dataprep.normalize",  # by which texts are made harmless
}
STAGES = [train.STAGE, merge.STAGE, build_engine.STAGE, quantize.STAGE, evaluate.STAGE]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_who_names_a_module_names_what_it_rests_on(stage):
    missing = {also for module, also in ALSO.items() if module in stage.code and also not in stage.code}
    assert not missing


@pytest.mark.parametrize("stage", [build_engine.STAGE, quantize.STAGE, evaluate.STAGE], ids=lambda stage: stage.name)
def test_stages_that_ask_a_model_name_what_renders_a_prompt(stage):
    named = {module for module in stage.code if module.startswith("train")}
    assert "train" in named or {"train.examples", "train.template"} <= named
