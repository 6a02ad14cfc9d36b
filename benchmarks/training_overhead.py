"""What Ray Train, DeepSpeed, checkpoints and reports cost a training step, and how long a run takes to its first step.

In: the bundled model, or another (`--model`), and examples made of the bundled questions, or of one's own data
(`--examples`, examples.parquet of an augment artifact). Three cases, each run in a fresh process, in alternating order:

- plain: the same rows by PyTorch and PEFT alone; several processes add up their gradients by one all-reduce a step;
- loop: `ragray.train.loop` with DeepSpeed, without Ray;
- ray: the stage as `ragray train` runs it, by Ray Train.

Each of `--workers` is a process. The step is the slowest worker's, and the start ends where the first step begins.

  python benchmarks/training_overhead.py --runs 5
  python benchmarks/training_overhead.py --runs 5 --workers 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness import ROOT, options, publish

if TYPE_CHECKING:
    import torch

_WARM_UP = 3  # steps that are not counted
_SEED = 17
CASES = ("plain", "loop", "ray")


def make_examples(path: Path) -> Path:
    """Write examples of the bundled questions, each with three answers of its file, the right one among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for file in sorted((ROOT / "data" / "faq").glob("*.jsonl")):
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.endswith("}")]
        records = [record for record in records if record.get("question") and record.get("answer")]
        for number, record in enumerate(records):
            shown = [records[(number + step) % len(records)] for step in (1, 2)]
            shown.insert(number % 3, record)
            rows.append(
                {
                    "example_id": f"{file.stem}-{number}",
                    "split": "train",
                    "question": record["question"],
                    "lang": file.stem[-2:],
                    "closed_book": False,
                    "passages": [{"doc_id": r["question"], "title": r["question"], "text": r["answer"]} for r in shown],
                    "number": number % 3 + 1,
                    "answer": record["answer"],
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _settings(args: argparse.Namespace) -> Any:
    from ragray.config_train import TrainConfig

    return TrainConfig(
        base_model=str(args.model),
        epochs=10_000,
        max_steps=args.steps,
        global_batch_examples=args.batch,
        num_workers=args.workers,
        zero_stage=args.zero_stage,
        threads_per_worker=args.threads,
        checkpoint_every_steps=args.checkpoint_every,
    )


def _join_group(args: argparse.Namespace) -> tuple[int, int]:
    """Make this process one of the workers; its rank and their number."""
    import torch

    rank = int(os.environ["LOCAL_RANK"])
    store = f"file://{Path(args.report).parent / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=args.workers)
    return rank, args.workers


def _add_up(parameters: Sequence[torch.Tensor]) -> None:
    """Sum the gradients over all workers, all of them in one message."""
    import torch

    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _run_plain(args: argparse.Namespace, folder: Path, examples_file: Path) -> dict[str, float]:
    """The loop's rows and arithmetic, written down once more without DeepSpeed, Ray or a monitor."""
    import torch

    from ragray.train.examples import read_examples
    from ragray.train.loading import load_model, load_tokenizer
    from ragray.train.loop import learning_rate_of
    from ragray.train.lora import attach_lora
    from ragray.train.losses import AnswerLoss
    from ragray.train.packing import DataOrder, pack, register_packed_attention, share_out

    rank, workers = _join_group(args) if args.workers > 1 else (0, 1)
    settings = _settings(args)
    examples = read_examples(examples_file, "train", load_tokenizer(args.model), settings.max_length).examples
    ids = tuple(example.example_id for example in examples)
    order = DataOrder(ids, _SEED, settings.global_batch_examples, settings.epochs, settings.max_steps)
    model = attach_lora(load_model(args.model, torch.float32, register_packed_attention()), settings.lora, _SEED)
    module = AnswerLoss(model.train())
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
    seconds, first = [], 0.0
    for step in range(order.total_steps):
        started = time.perf_counter()
        batch = [examples[i] for i in order.step_examples(step)]
        answers = sum(example.answer_tokens for example in batch)
        rows = share_out([len(example) for example in batch], workers, settings.tokens_per_micro_batch)[rank]
        for positions in rows:
            (module(pack([batch[i] for i in positions])) / answers).backward()
        if workers > 1:
            _add_up(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_of(settings, step, order.total_steps)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
        first = first or time.time() - seconds[0] - args.began
    return {"step_s": statistics.median(seconds[_WARM_UP:]), "stall": 0.0, "first_step_s": first}


def _run_loop(args: argparse.Namespace, folder: Path, examples_file: Path) -> dict[str, float]:
    from ragray.train.loop import TrainRun, train

    _join_group(args)
    train(TrainRun(_settings(args), _SEED, str(args.model), str(examples_file), str(folder), attempt="benchmark"))
    return _measured(args, folder)


def _run_ray(args: argparse.Namespace, folder: Path, examples_file: Path) -> dict[str, float]:
    from ragray.artifact import Artifact, Draft
    from ragray.config_loading import validate_config
    from ragray.distributed import train
    from ragray.distributed.stage import Job

    tree = {"name": "overhead", "output": str(folder), "data": {"faq": [{"path": "x"}]}}
    config = validate_config({**tree, "train": _settings(args).model_dump(mode="json")}, "benchmark")
    (folder / "draft").mkdir()
    audit: Any = SimpleNamespace(metrics={"leakage": {"tests": 0, "leaked": 0, "leaked_share": 0.0}})
    needs = {"prepare": Artifact("prepare", folder, audit), "augment": Artifact("augment", examples_file.parent, audit)}
    train.build(Job(config, needs, Draft(folder / "draft"), folder))
    return _measured(args, folder)


def _measured(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The median step, the share of all steps' time that they waited for checkpoints and reports, and the start."""
    from ragray.train.ranks import RankStep, join_ranks

    def slowest(made: Sequence[RankStep]) -> RankStep:
        return max(made, key=lambda of_rank: of_rank.seconds)

    steps = [slowest(list(made)) for _, made in itertools.groupby(join_ranks(folder), key=lambda made: made.step)]
    waited = sum(made.checkpoint_s + made.report_s for made in steps[:-1])  # at the end no step waits
    return {
        "step_s": statistics.median(made.seconds for made in steps[_WARM_UP:]),
        "stall": waited / sum(made.seconds for made in steps),
        "first_step_s": steps[0].at - steps[0].seconds - args.began,
    }


_RUNS = {"plain": _run_plain, "loop": _run_loop, "ray": _run_ray}


def _run_apart(case: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """One run in processes of its own: one for each worker; Ray starts its own."""
    report = folder / "report.json"
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "DS_ACCELERATOR": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, *sys.argv, "--case", case, "--report", str(report), "--began", str(time.time())]
    with (folder / "output").open("w") as output:
        processes = [
            subprocess.Popen(
                command, env={**environment, "LOCAL_RANK": str(rank)}, stdout=output, stderr=subprocess.STDOUT
            )
            for rank in range(1 if case == "ray" else args.workers)
        ]
        try:
            codes = [process.wait(args.timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if any(codes):
        tail = "\n".join((folder / "output").read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{case}: failed with exit code {max(codes, key=abs)}\n{tail}")
    found: dict[str, float] = json.loads(report.read_text())
    return found


def _row(case: str, runs: list[dict[str, float]], plain: float | None) -> str:
    cells = []
    for name, factor, digits in (("step_s", 1000, 1), ("stall", 100, 2), ("first_step_s", 1, 1)):
        values = [found[name] * factor for found in runs]
        cells.append(f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})")
    step = statistics.median(found["step_s"] for found in runs)
    cells.insert(1, "-" if plain is None else f"{step / plain - 1:+.1%}")
    return f"| {case} | {' | '.join(cells)} |"


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    made = options(__doc__)
    made.add_argument("--model", type=Path, default=ROOT / "data" / "models" / "ragray-tiny", help="the base model")
    made.add_argument("--examples", type=Path, help="examples.parquet; by default made of the bundled questions")
    made.add_argument("--steps", type=int, default=60, help="optimizer steps of a run")
    made.add_argument("--batch", type=int, default=16, help="examples of a step")
    made.add_argument("--workers", type=int, default=1, help="training processes")
    made.add_argument("--checkpoint-every", type=int, default=50, help="steps between checkpoints")
    made.add_argument("--zero-stage", type=int, default=2, help="DeepSpeed ZeRO stage")
    made.add_argument("--began", type=float, help=argparse.SUPPRESS)
    return made


def main() -> None:
    """Measure, print and record."""
    args = parser().parse_args()
    args.model = args.model.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples = args.examples.resolve() if args.examples else make_examples(folder / "examples.parquet")
        if args.case:
            found = _RUNS[args.case](args, Path(args.report).parent, examples)
            if os.environ["LOCAL_RANK"] == "0":
                Path(args.report).write_text(json.dumps(found))
            return
    chosen = [case for case in CASES if not args.cases or case in args.cases.split(",")]
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in chosen}
    for number in range(args.runs):
        for case in chosen if number % 2 == 0 else reversed(chosen):
            with tempfile.TemporaryDirectory() as name:
                runs[case].append(_run_apart(case, args, Path(name)))
            print(f"{case} {number + 1}/{args.runs}: {runs[case][-1]}", file=sys.stderr, flush=True)
    plain = statistics.median(found["step_s"] for found in runs["plain"]) if "plain" in runs else None
    setting = (
        f"{args.model.name}, {args.batch} examples a step, {args.steps} steps of which {_WARM_UP} are not counted, "
        f"a checkpoint after {args.checkpoint_every}, ZeRO-{args.zero_stage}, "
        f"{args.workers} workers of {args.threads} threads each; "
        f"median (least to most) of {args.runs} runs in alternating order, a fresh process each"
    )
    columns = ("case", "step ms", "against plain", "stall by checkpoints and reports, %", "start to first step, s")
    publish("training_overhead", setting, columns, [_row(case, runs[case], plain) for case in chosen],
            keep=not args.no_record)  # fmt: skip


if __name__ == "__main__":
    main()
