"""What a worker measures: FLOPs by hand, tokens, times, and the files of all workers joined."""

import json
from dataclasses import replace

import torch

from ragray.config_train import LoraConfig
from ragray.train.examples import Example
from ragray.train.flops import StepWork, measured_peak, table_peak
from ragray.train.loading import load_model
from ragray.train.lora import attach_lora
from ragray.train.meter import Meter
from ragray.train.packing import pack
from ragray.train.ranks import RankStep, join_ranks, load_ranks, save_ranks

CPU = torch.device("cpu")
ROW = RankStep(1, 0, 1, 100.0, 2.0, 0.5, 0.0, 0.0, 0.0, 10, 10, 64.0, None)


def test_flops_are_those_of_the_papers_formula(tiny_model):
    """On the tiny Llama: 2 layers of 32, 4 heads of 8, 2 of them for keys, 64 wide."""
    model = attach_lora(load_model(tiny_model, torch.float32), LoraConfig(rank=2, target_modules=("q_proj",)), seed=1)
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 2 * 32
    late = 32 * 32 + 3 * 32 * 64 + 2 * 32  # of the last layer, at answers alone: o_proj, MLP, its norm, the last norm
    frozen, trained = 2 * layer + 32 - late, 2 * (2 * 32 + 32 * 2)
    output = model.get_input_embeddings().weight.shape[0] * 32 + late
    work = StepWork.of(model)
    assert work == StepWork(4 * frozen + 6 * trained, 4 * output, 12 * 2 * 4 * 8)
    expected = 15 * (4 * frozen + 6 * trained) + 6 * 4 * output + 12 * 2 * 4 * 8 * (10**2 + 5**2)
    assert work.flops([10, 5], 6) == expected
    second = 15 * 2 * frozen + 6 * 2 * output + 4 * 2 * 4 * 8 * (10**2 + 5**2)
    assert StepWork.of(model, reference=True).flops([10, 5], 6) == expected + second, "DPO's, without the adapter"


def test_flops_of_a_model_without_shortcuts_take_the_last_layer_at_every_token(tiny_model):
    model = attach_lora(load_model(tiny_model, torch.float32), LoraConfig(rank=2, target_modules=("q_proj",)), seed=1)
    short = StepWork.of(model)
    model.get_base_model().config.model_type = "another"
    whole = StepWork.of(model)
    assert whole.each_token + whole.each_answer_token == short.each_token + short.each_answer_token
    assert whole.each_token - short.each_token == 4 * (32 * 32 + 3 * 32 * 64 + 2 * 32)


def test_a_mixture_of_experts_has_no_flops_by_its_parameters(tiny_model):
    model = load_model(tiny_model, torch.float32)
    model.config.num_local_experts = 8
    assert StepWork.of(model) is None


def test_peaks_are_found_by_name_and_precision():
    assert table_peak("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert table_peak("NVIDIA H100 PCIe", "bf16") == 756e12
    assert table_peak("NVIDIA H200", "bf16") == 989.4e12
    assert table_peak("NVIDIA H200 NVL", "bf16") == 835.5e12
    assert table_peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert table_peak("NVIDIA A10G", "fp16") == 70e12
    assert table_peak("NVIDIA L40S", "bf16") == 362e12
    assert table_peak("Tesla T4", "fp16") == 65e12
    assert table_peak("Tesla T4", "bf16") is None, "it has no bf16"
    assert table_peak("Tesla V100-PCIE-16GB", "fp16") == 112e12
    for other in (
        "NVIDIA T400",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
    ):
        assert table_peak(other, "fp16") is None, "another product with the name in its name"
    assert table_peak("Some new GPU", "bf16") is None
    assert measured_peak(CPU, "fp32") > 1e9


def example(prompt, answer):
    return Example("e", tuple(range(prompt + answer)), prompt)


def test_useful_tokens_leave_out_the_token_of_an_empty_row(tmp_path):
    work = StepWork(each_token=3, each_answer_token=5, each_pair=7)
    meter = Meter(tmp_path, 0, 2, CPU, work, peak=100.0)
    for examples in ([example(4, 2), example(3, 1)], []):
        meter.count(pack(examples))
    found = meter.finish(1, seconds=2.0)
    assert (found.tokens, found.padded_tokens) == (10, 11)
    assert found.mfu == (3 * 10 + 5 * 3 + 7 * (6**2 + 4**2)) / (2.0 * 100.0)
    assert found.memory_mib > 10
    meter.begin()
    assert meter.finish(2, 1.0).tokens == 0, "each step is counted by itself"


def test_without_a_peak_there_is_no_utilization(tmp_path):
    meter = Meter(tmp_path, 0, 1, CPU, StepWork(1, 1, 1), peak=None)
    meter.count(pack([example(4, 2)]))
    assert meter.finish(1, 1.0).mfu is None


def test_parts_outside_the_step_do_not_count_as_its_time(tmp_path, monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 4.0, 9.0, 10.0])
    monkeypatch.setattr("ragray.train.meter.time.perf_counter", lambda: next(clock))
    meter = Meter(tmp_path, 0, 1, CPU, None, None)  # 0
    with meter.timing("data_wait_s"):  # 1 to 3
        pass
    with meter.timing("validation_s"):  # 4 to 9
        pass
    seconds = meter.seconds()  # 10
    found = meter.finish(1, seconds)
    assert (seconds, found.data_wait_s, found.validation_s) == (5.0, 2.0, 5.0)


def write(folder, rows):
    (folder / "ranks").mkdir(exist_ok=True)
    for row in rows:
        with (folder / "ranks" / f"{row.rank:05d}.jsonl").open("a") as file:
            file.write(json.dumps({name: getattr(row, name) for name in row.__dataclass_fields__}) + "\n")


def test_of_a_step_done_again_the_last_time_counts(tmp_path):
    """Two workers, then step 2 again by one alone; the line that the killed worker was writing is passed over."""
    first = [replace(ROW, step=s, rank=r, workers=2, at=100.0 + s) for s in (1, 2) for r in (0, 1)]
    again = replace(ROW, step=2, workers=1, at=200.0, seconds=9.0)
    write(tmp_path, [*first, again])
    with (tmp_path / "ranks" / "00001.jsonl").open("a") as file:
        file.write('{"step": 3, "ra')
    assert join_ranks(tmp_path) == [first[0], first[1], again]


def test_a_killed_workers_half_line_does_not_take_the_next_with_it(tmp_path):
    write(tmp_path, [ROW])
    with (tmp_path / "ranks" / "00000.jsonl").open("a") as file:
        file.write('{"step": 2, "ra')
    meter = Meter(tmp_path, 0, 1, CPU, None, None)
    made = meter.finish(2, 1.0)
    meter.close()
    assert join_ranks(tmp_path) == [ROW, made]


def test_saved_and_loaded_ranks_are_the_same(tmp_path):
    rows = [ROW, replace(ROW, rank=1, mfu=0.5)]
    save_ranks(rows, tmp_path)
    assert load_ranks(tmp_path) == rows
    assert load_ranks(tmp_path / "nowhere") == []


def test_nothing_measured_is_nothing_joined(tmp_path):
    assert join_ranks(tmp_path) == []
