"""Stage prepare: every row is accounted for, whatever the damage and however the rows are divided."""

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ragray.artifact import Artifact
from ragray.config import CleanConfig, FaqSourceConfig
from ragray.config_loading import validate_config
from ragray.dataprep.read import faq_files
from ragray.distributed.prepare import STAGE, sample_records
from ragray.distributed.read_clean import read_and_clean
from ragray.distributed.stage import bring_up_to_date
from ragray.errors import DataError
from ragray.schema import QARecord, Rejected, records_of

pytestmark = pytest.mark.usefixtures("ray_local")


def damaged(path: Path, seed: int, rows: int = 60) -> Path:
    """A JSONL file in which good rows, repeated ones and every kind of damage are mixed."""
    chance = random.Random(seed)
    lines: list[bytes] = []
    for n in range(rows):
        good = {
            "question": f"How do I set option {n:03} {chance.random()}?",
            "answer": f"Write option{n} = {chance.random()}.",
        }
        text = json.dumps(good).encode()
        kind = chance.choice(["good"] * 6 + ["repeat", "cut", "empty", "bytes", "list", "zh"])
        if kind == "repeat" and lines:
            text = lines[0]
        elif kind == "cut":
            text = text[: len(text) // 2]
        elif kind == "empty":
            text = json.dumps({**good, "answer": "<p></p>"}).encode()
        elif kind == "bytes":
            text = text.replace(b"option", b"\xff\xfe", 1)
        elif kind == "list":
            text = json.dumps(list(good.values())).encode()
        elif kind == "zh":
            text = json.dumps(
                {"question": f"怎样设置第{n}项？", "answer": f"写上第{n}项的值。"}, ensure_ascii=False
            ).encode()
        lines.append(text)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def run(tmp_path: Path, name: str = "out", **data: object) -> Artifact:
    config = validate_config(
        {
            "name": "t",
            "output": str(tmp_path / name),
            "data": {"faq": [{"path": str(tmp_path / "*.jsonl")}], "max_rejected_share": 0.9, **data},
            "train": {"base_model": "none"},
        },
        "test",
    )
    return bring_up_to_date(config, [STAGE])["prepare"].artifact


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    for seed in range(3):
        damaged(tmp_path / f"faq{seed}.jsonl", seed)
    artifact = run(tmp_path, max_records=70)
    counts = artifact.manifest.counts
    assert counts["rows_in"] == 180 == counts["records"] + counts["rejected"] + counts["duplicates"]
    assert counts["records"] == 70 == counts["train"] + counts["valid"] + counts["test"]
    reasons = Counter(row.reason for row in records_of(Rejected, pq.read_table(artifact.file("rejected.parquet"))))
    assert {f"rejected.{reason}": n for reason, n in reasons.items()}.items() <= counts.items()
    assert {"broken_line", "empty_answer", "bad_encoding", "bad_row", "not_sampled"} <= set(reasons)
    sources = artifact.manifest.metrics["sources"]
    assert len(sources) == 3
    for source in sources.values():
        assert source["rows_in"] == 60 == source["records"] + source["rejected"] + source["duplicates"]
    lines = records_of(QARecord, pq.read_table(artifact.file("records.parquet")))
    assert [r.id for r in lines] == [f"{Path(r.source).stem}-{r.line:04d}" for r in lines]
    assert run(tmp_path, "again", max_records=70).digest == artifact.digest


def test_blocks_do_not_show_in_the_result(tmp_path: Path) -> None:
    files = faq_files([FaqSourceConfig(path=str(damaged(tmp_path / "faq.jsonl", 5, 100)))])
    whole = read_and_clean(files, CleanConfig())
    assert len(whole.records) + len(whole.rejected) == 100
    assert read_and_clean(files, CleanConfig(), block_rows=2) == whole  # 50 blocks


def test_faults_of_a_file_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"frage": "x", "answer": "y"}\n')
    with pytest.raises(DataError, match="no column 'question'") as caught:
        run(tmp_path)
    assert type(caught.value) is DataError and "Traceback" not in str(caught.value)


def test_too_many_rejected_rows_stop_the_stage(tmp_path: Path) -> None:
    good = '{"question": "What is it?", "answer": "It is a thing."}\n'
    (tmp_path / "a.jsonl").write_text(good + "{\n" * 3)
    with pytest.raises(DataError, match=r"3 of 4 rows \(75\.0%\).*broken_line 3.*a\.jsonl:2") as caught:
        run(tmp_path, max_rejected_share=0.5)
    assert "--set data.max_rejected_share=0.76" in caught.value.fix or "=0.75" in caught.value.fix
    (tmp_path / "a.jsonl").write_text("{\n" * 3)
    with pytest.raises(DataError, match="all 3 rows were rejected: broken_line 3"):
        run(tmp_path, max_rejected_share=1.0)


def test_two_rows_with_one_id(tmp_path: Path) -> None:
    rows = [{"id": "x", "question": f"Question {n}?", "answer": f"Answer {n}."} for n in range(2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FaqSourceConfig.model_validate({"path": str(tmp_path / "a.jsonl"), "columns": {"id": "id"}})
    outcomes = read_and_clean(faq_files([source]), CleanConfig())
    assert [r.id for r in outcomes.records] == ["x"]
    assert [(r.line, r.reason) for r in outcomes.rejected] == [(2, "duplicate_id")]


def test_sampling_keeps_what_is_held_out() -> None:
    records = [QARecord(f"r{n}", "q", "a", "en", "f", n) for n in range(50)]
    kept, left_out = sample_records(records, 5, 17, ["r7", "r9"])
    assert len(kept) == 5 and len(left_out) == 45 and {"r7", "r9"} <= {r.id for r in kept}
    assert {row.reason for row in left_out} == {"not_sampled"}
