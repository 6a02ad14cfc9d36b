"""Every method: saved, read back, measured; the same bytes each time; failures are told with what was printed."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from quantize_request import make_request

from ragray.artifact import folder_digest
from ragray.config_quantize import GateConfig, MethodName, QuantizeConfig
from ragray.engine.protocol import SamplingParams
from ragray.engine.quantize import LOG, copy_companions, measure_full, quantize, weight_bytes
from ragray.engine.quantize_measures import Divergence, measure
from ragray.engine.quantize_methods import FULL, LOCAL, METHODS, EnvironmentMethod
from ragray.engine.quantize_process import run_step
from ragray.engine.quantize_protocol import HeldOut, Measured, Reply, Request, Result
from ragray.engine.transformers_runtime import load_model
from ragray.errors import EngineError
from ragray.evaluation.gate import Candidate, decide
from ragray.evaluation.significance import Resampling

MOST_KL = {8: 0.1, 4: 0.5}  # nats, of the tiny random model, whose predictions are almost even
LEAST_AGREEMENT = {8: 0.8, 4: 0.2}


def quantized(method: str, model: Path, out: Path) -> tuple[Request, Measured]:
    request = make_request(method, model, out)
    assert run_step(request).facts["algorithm"]
    copy_companions(model, out)
    return request, run_step(request.at("measure")).measured


def test_the_methods_are_those_of_the_settings() -> None:
    assert set(METHODS) == set(MethodName.__args__)
    assert all(method.name == name for name, method in LOCAL.items())


@pytest.mark.parametrize("name", [name for name in METHODS if name in LOCAL])
def test_a_method_saves_less_stays_close_and_gives_the_same_bytes(
    name: str, model_folder: Path, tmp_path: Path
) -> None:
    request, measured = quantized(name, model_folder, tmp_path / "a")
    assert 0 < measured.kl_nats < MOST_KL[METHODS[name].bits]
    assert measured.argmax_agreement > LEAST_AGREEMENT[METHODS[name].bits]
    assert measured.perplexity == pytest.approx(measured.full_perplexity, rel=0.25)
    assert measured.positions == sum(len(each.token_ids) for each in request.material.held_out)
    assert len(measured.answers) == len(request.material.prompts)
    assert all(len(answer.token_ids) <= 6 for answer in measured.answers)
    assert measured.tokens_per_second > 0 and measured.load_s > 0
    assert measured.peak_memory_bytes >= measured.memory_bytes >= 0
    assert 0 < weight_bytes(tmp_path / "a") < weight_bytes(model_folder)
    run_step(make_request(name, model_folder, tmp_path / "b"))
    copy_companions(model_folder, tmp_path / "b")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")


@pytest.mark.parametrize("name", [name for name in METHODS if name in LOCAL])
def test_a_quantized_model_generates_the_answers_that_were_measured(
    name: str, model_folder: Path, tmp_path: Path
) -> None:
    request, measured = quantized(name, model_folder, tmp_path / "a")
    engine = LOCAL[name].load(request)
    again = engine.generate(request.material.prompts, SamplingParams(max_new_tokens=request.max_new_tokens))
    engine.close()
    assert [each.token_ids for each in again] == [each.token_ids for each in measured.answers]


def test_calibration_changes_what_is_kept(model_folder: Path, tmp_path: Path) -> None:
    files = {}
    for name in ("openvino_int4", "openvino_int4_awq"):
        facts = run_step(make_request(name, model_folder, tmp_path / name)).facts
        assert facts["calibration_examples"] == (5 if name.endswith("awq") else 0)
        files[name] = (tmp_path / name / "openvino_model.bin").read_bytes()
    assert files["openvino_int4"] != files["openvino_int4_awq"]


def test_the_full_model_is_at_no_distance_from_itself(model_folder: Path, tmp_path: Path) -> None:
    request = replace(make_request("full", model_folder, tmp_path / "out"), out=str(model_folder))
    measured = measure(FULL, request, FULL)
    assert (measured.kl_nats, measured.argmax_agreement) == (0.0, 1.0)
    model, losses = load_model(model_folder).requires_grad_(False), []
    for example in request.material.held_out:
        ids = torch.tensor([example.token_ids])
        labels = ids.masked_fill(torch.arange(ids.shape[1])[None] < example.answer_start, -100)
        losses.append(float(model(input_ids=ids, labels=labels).loss))  # all answers are of one length
    assert measured.perplexity == measured.full_perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_divergence_by_hand() -> None:
    full = np.log(np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype=np.float32))
    found = np.log(np.array([[0.25, 0.75], [0.9, 0.1], [0.4, 0.6]], dtype=np.float32))
    total = Divergence()
    total.add(HeldOut((0, 1, 0), 1), full, found)
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    third = 0.2 * math.log(0.2 / 0.4) + 0.8 * math.log(0.8 / 0.6)
    assert total.kl_nats == pytest.approx((first + 0 + third) / 3, rel=1e-5)
    assert total.agreement == pytest.approx(2 / 3)  # the first row of `full` is even: its first token counts
    assert total.perplexity == pytest.approx(math.exp(-(math.log(0.75) + math.log(0.9)) / 2), rel=1e-5)
    assert total.full_perplexity == pytest.approx(math.exp(-(math.log(0.5) + math.log(0.9)) / 2), rel=1e-5)


def test_the_gate_refuses_damaged_weights_and_passes_good_ones(model_folder: Path, tmp_path: Path) -> None:
    candidates = []
    for name, damaged in (("good", False), ("damaged", True)):
        request = make_request("int8_weight_only", model_folder, tmp_path / name)
        run_step(request)
        copy_companions(model_folder, tmp_path / name)
        if damaged:
            from safetensors.torch import load_file, save_file

            tensors = load_file(tmp_path / name / "int8.safetensors")
            rolled = {key: tensor.roll(1, -1) if tensor.ndim == 2 else tensor for key, tensor in tensors.items()}
            save_file(rolled, tmp_path / name / "int8.safetensors")
        measured = run_step(request.at("measure")).measured
        candidates.append(Candidate(name, 1, 1.0, measured.kl_nats, (1.0,)))
    decision = decide(Candidate("full", 2, 1.0, 0.0, (1.0,)), candidates, GateConfig(), Resampling(50, 1))
    assert decision.chosen == "good"
    assert decision.verdicts[1].reason.startswith("damaged: ")


def test_both_steps_run_as_processes_of_their_own(model_folder: Path, tmp_path: Path) -> None:
    request = make_request("int8_weight_only", model_folder, tmp_path / "out")
    record = quantize(METHODS["int8_weight_only"], request, QuantizeConfig())
    _, here = quantized("int8_weight_only", model_folder, tmp_path / "here")
    assert record.measured.answers == here.answers
    assert record.figures()["kl_nats"] == round(here.kl_nats, 6)
    assert record.bytes == weight_bytes(tmp_path / "here")
    full = measure_full(FULL, make_request("full", model_folder, tmp_path / "full"), QuantizeConfig())
    assert full.measured.kl_nats == 0.0 and full.bytes == weight_bytes(model_folder)
    assert [path.name for path in (tmp_path / "full").iterdir()] == [LOG]


def test_what_is_missing_is_told_by_the_process(model_folder: Path, tmp_path: Path) -> None:
    request = make_request("openvino_int4_awq", model_folder, tmp_path / "out")
    without = replace(request, material=replace(request.material, calibration=()))
    with pytest.raises(EngineError, match="no training example to calibrate it on"):
        quantize(METHODS["openvino_int4_awq"], without, QuantizeConfig())


def other(script: Path, text: str) -> EnvironmentMethod:
    """A method whose program is given."""
    script.write_text(text)
    return EnvironmentMethod("other", 8, "nothing", "modelopt", script, "requirements.txt")


HERE = QuantizeConfig(environments={"modelopt": sys.executable})
REPLY = """
import json, sys
assert "ragray" not in sys.modules and sys.flags.isolated
asked = json.load(open(sys.argv[1]))
assert asked["schema"] == 1 and asked["step"] == "quantize" and len(asked["calibration"]) == 5
open(asked["out"] + "/weights.bin", "wb").write(b"1234")
answers = [{"token_ids": prompt[:2], "finish_reason": "stop"} for prompt in asked["prompts"]]
figures = {"positions": 9, "kl_nats": 0.25, "argmax_agreement": 0.5, "perplexity": 3.0, "full_perplexity": 2.0}
measured = {"answers": answers, "simulated": True, **figures}
facts = {"algorithm": "a", "versions": {"p": "1"}}
json.dump({"schema": 1, "facts": facts, "measured": measured}, open(sys.argv[2], "w"))
"""


def test_a_method_of_another_interpreter_speaks_json_and_may_measure_itself(model_folder: Path, tmp_path: Path) -> None:
    request = make_request("other", model_folder, tmp_path / "out")
    record = quantize(other(tmp_path / "program.py", REPLY), request, HERE)
    expected = tuple(Reply(prompt[:2], "stop") for prompt in request.material.prompts)
    assert record.measured == Measured(9, 0.25, 0.5, 3.0, 2.0, expected, simulated=True)
    assert record.facts == {"algorithm": "a", "versions": {"p": "1"}, "used_by": "nothing"} and record.bytes == 4
    assert record.costs()["tokens_per_second"] is None
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("print('no memory'); raise SystemExit(3)", r"ended with code 3 and no result:\nno memory"),
        ("import sys; open(sys.argv[2], 'w').write('{')", "its answer cannot be read"),
        ("import sys; open(sys.argv[2], 'w').write('{\"schema\": 2}')", "answered by schema 2, not 1"),
        ("import sys; open(sys.argv[2], 'w').write('{\"schema\": 1}')", "says nothing of what it did"),
    ],
)
def test_a_program_that_fails_is_told(program: str, told: str, model_folder: Path, tmp_path: Path) -> None:
    method = other(tmp_path / "program.py", program)
    with pytest.raises(EngineError, match=told) as caught:
        quantize(method, make_request("other", model_folder, tmp_path / "out"), HERE)
    assert caught.value.fix


def test_an_environment_that_is_not_named_or_not_there_is_refused(model_folder: Path, tmp_path: Path) -> None:
    method = other(tmp_path / "program.py", "")
    plan = method.plan(10, QuantizeConfig())
    assert plan.refusal and "quantize.environments.modelopt" in plan.fix and "requirements.txt" in plan.fix
    assert method.plan(10, HERE).refusal is None
    nowhere = QuantizeConfig(environments={"modelopt": str(tmp_path / "python")})
    with pytest.raises(EngineError, match="python cannot be started"):
        quantize(method, make_request("other", model_folder, tmp_path / "out"), nowhere)


def test_requests_and_results_pass_through_json_unchanged(model_folder: Path, tmp_path: Path) -> None:
    request = make_request("full", model_folder, tmp_path / "out")
    request.write(tmp_path / "request.json")
    assert Request.read(tmp_path / "request.json") == request
    assert json.loads((tmp_path / "request.json").read_text())["held_out"][0]["answer_start"] == 20
    measured = Measured(1, 0.1, 0.2, 3.0, 4.0, (Reply((1, 2), "length"),), generate_s=0.5)
    Result({"algorithm": "x"}, measured).write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json", "m") == Result({"algorithm": "x"}, measured)
    assert measured.tokens_per_second == 4.0


def test_larger_models_are_planned_more_memory() -> None:
    for method in METHODS.values():
        small, large = (method.plan(size, QuantizeConfig()).memory_bytes for size in (0, 10**9))
        assert small == 2**30 and large - small >= 2 * 10**9


ORPHAN = """
import os, threading, time
from ragray.engine.quantize_process import end_with
threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), flush=True)
"""


def test_a_step_ends_with_the_process_that_started_it() -> None:
    parent = subprocess.run([sys.executable, "-c", PARENT, ORPHAN], capture_output=True, text=True, check=True)
    child = Path(f"/proc/{int(parent.stdout)}/cmdline")
    while child.exists() and b"end_with" in child.read_bytes():  # else it sleeps ten minutes
        time.sleep(0.1)
