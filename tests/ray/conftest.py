"""One small local Ray for all tests of this folder, and an application served on it for those of a module."""

import os
from collections.abc import Iterator

import pytest
from small_service import ENGINE, PASSAGES, args_for, free_port, random_model, save  # type: ignore[import-not-found]

from ragray.artifact import Artifact, Source, Store
from ragray.config import RetrievalConfig


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    import ray

    from ragray.distributed.session import connect

    # for tests that read what Prometheus reads; else ten seconds
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112 - Ray's spelling
    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    from ragray.engine.build import build_engine
    from ragray.retrieval.confidence import FEATURES, Confidence
    from ragray.retrieval.writing import build_index

    root = tmp_path_factory.mktemp("served")
    store = Store(str(root / "artifacts"))
    model = random_model(root / "model")
    confidence = Confidence(5.0, (0.0,) * len(FEATURES), 0.5, 0.05, {}, {}, ())  # sure whenever anything is found
    index = save(store, "index", lambda draft: build_index(PASSAGES, RetrievalConfig(), draft.folder))
    adapter = Source("train", "elsewhere", "a" * 64)
    merge = save(store, "merge", lambda draft: None, {"train": adapter})
    return {
        "index": index,
        "calibrate": save(store, "calibrate", lambda d: confidence.write(d.folder), {"index": index.source()}),
        "merge": merge,
        "engine": save(store, "engine", lambda d: build_engine(model, ENGINE, d.folder), {"merge": merge.source()}),
    }


@pytest.fixture(scope="module")
def url(ray_local: None, artifacts: dict[str, Artifact]) -> Iterator[str]:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from ragray.serve.app import build

    port = free_port()
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    serve.run(build(args_for(artifacts)), name="ragray", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
