"""Feedback on a served application: joined by the ingress replica, written when it is taken down."""

from __future__ import annotations

from pathlib import Path

import httpx
import pyarrow.parquet as pq
from small_service import QUESTION, args_for, ask  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.serve.app import build


def test_a_rating_is_written_when_the_application_is_taken_down(
    url: str, artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    from ray import serve

    args = args_for(artifacts)
    args["serve"]["feedback"] = {"folder": str(tmp_path / "kept"), "flush_s": 3600}
    serve.run(build(args), name="rated", route_prefix="/rated")
    answer = ask(f"{url}/rated").json()
    body = {"completion_id": answer["id"], "rating": "up"}
    assert httpx.post(f"{url}/rated/v1/feedback", json=body).status_code == 200
    assert httpx.get(f"{url}/rated/v1/status").json()["feedback"] is True
    assert httpx.post(f"{url}/v1/feedback", json=body).status_code == 404  # off in the other application
    assert list((tmp_path / "kept").iterdir()) == []
    serve.delete("rated")
    (path,) = (tmp_path / "kept").iterdir()
    (row,) = pq.read_table(path).to_pylist()
    assert (row["question"], row["rating"], row["completion_id"]) == (QUESTION, "up", answer["id"])
    assert row["answer"] and row["lineage"]
