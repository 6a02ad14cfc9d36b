"""What ModelOpt's methods cost in answers and bytes, run on a CPU: each quantizes a model; what it wrote is measured.

In: a model folder, by default the bundled one, and ModelOpt's Python (deploy/modelopt.txt). The bundled FAQ's JSONL
files calibrate, but for one whose questions are held out; each prompt shows the right entry among two others. Out: a
table with a row for each method: bytes of both layouts, seconds, and the stored model's distance to the full one.
Both layouts are what a GPU would be given; no GPU takes part, and seconds are of the CPU.

  python benchmarks/modelopt_methods.py --python modelopt/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from harness import ROOT, publish

from ragray import prompt
from ragray.engine.gpu_policy import FORMATS
from ragray.engine.modelopt import TASK, TRTLLM_FOLDER
from ragray.engine.tokens import decode, load_tokenizer, stop_tokens
from ragray.evaluation.answers import token_f1
from ragray.train.examples import ExampleRow, encode

HELD_OUT = "install_en.jsonl"
COLUMNS = (
    "method", "MB", "MB, TensorRT-LLM", "quantize s", "KL, nats", "same most probable token", "perplexity",
    "answer F1", "equal answers",
)  # fmt: skip


def entries_of(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a JSONL file but for those that the bundled data damages on purpose."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line or "null")
            if entry and entry.get("question") and entry.get("answer"):
                yield entry


def rows_of(path: Path) -> list[ExampleRow]:
    """Each entry of a FAQ file as an example: its question, and its answer as the second of three passages."""
    entries = list(entries_of(path))
    lang = "zh" if "_zh" in path.name else "en"
    rows = []
    for place, entry in enumerate(entries):
        shown = [entries[place - 1], entry, entries[(place + 1) % len(entries)]]
        passages = tuple((each["question"], each["answer"]) for each in shown)
        rows.append(ExampleRow(f"{path.stem}-{place}", entry["question"], lang, entry["answer"], 2, False, passages))
    return rows


def step(python: str, request: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Run one step of the task; its result, and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as name:
        asked, told = Path(name) / "asked.json", Path(name) / "told.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        started = time.perf_counter()
        subprocess.run([python, "-I", str(TASK), str(asked), str(told)], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        result: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    if error := result.get("error"):
        raise SystemExit(f"{request['method']}: {error['message']}\n  Fix: {error['fix']}")
    return result, seconds


def megabytes(folder: Path) -> float:
    """Of the tensors that lie in a folder itself."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


def main() -> None:
    """Quantize and measure by every method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter with deploy/modelopt.txt")
    parser.add_argument("--model", type=Path, default=ROOT / "data" / "models" / "ragray-tiny", help="model folder")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--no-record", action="store_true", help="only print")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model)
    files = sorted((ROOT / "data" / "faq").glob("*.jsonl"))
    calibration = [encode(row, tokenizer) for path in files if path.name != HELD_OUT for row in rows_of(path)]
    held_rows = rows_of(ROOT / "data" / "faq" / HELD_OUT)
    held = [encode(row, tokenizer) for row in held_rows]
    request = {
        "schema": 1,
        "model": str(args.model.resolve()),
        "calibration": [list(example.token_ids) for example in calibration],
        "held_out": [{"token_ids": list(e.token_ids), "answer_start": e.answer_start} for e in held],
        "prompts": [list(example.token_ids[: example.answer_start]) for example in held],
        "max_new_tokens": 96,
        "stop_token_ids": sorted(stop_tokens(args.model, tokenizer)),
        "batch_size": 8,
        "threads": args.threads,
    }
    full, _ = step(args.python, request | {"step": "measure", "method": "modelopt_fp16", "out": request["model"]})
    versions: dict[str, str] = {}

    def row(name: str, sizes: str, seconds: str, measured: dict[str, Any]) -> str:
        texts = [decode(tokenizer, answer["token_ids"]) for answer in measured["answers"]]
        f1 = mean(
            token_f1(prompt.parse_answer(text).text, [right.answer], right.lang)
            for text, right in zip(texts, held_rows, strict=True)
        )
        same = sum(a == b for a, b in zip(measured["answers"], full["measured"]["answers"], strict=True))
        return (
            f"| {name} | {sizes} | {seconds} | {measured['kl_nats']:.5f} | {measured['argmax_agreement']:.4f} | "
            f"{measured['perplexity']:.4f} | {f1:.4f} | {same} of {len(texts)} |"
        )

    rows = [row("none (float32)", f"{megabytes(args.model):.1f} | -", "-", full["measured"])]
    for made in FORMATS.values():
        with tempfile.TemporaryDirectory() as name:
            out = Path(name)
            facts, seconds = step(args.python, request | {"step": "quantize", "method": made.method, "out": name})
            measured, _ = step(args.python, request | {"step": "measure", "method": made.method, "out": name})
            sizes = f"{megabytes(out):.1f} | {megabytes(out / TRTLLM_FOLDER):.1f}"
            rows.append(row(made.method, sizes, f"{seconds:.0f}", measured["measured"]))
            versions = facts["facts"]["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    setting = (
        f"{args.model.name}, {len(calibration)} calibration sequences, {len(held)} held-out questions, "
        f"{args.threads} thread; {packages}"
    )
    publish("modelopt_methods", setting, COLUMNS, rows, keep=not args.no_record)


if __name__ == "__main__":
    main()
