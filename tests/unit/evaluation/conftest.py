"""Fixtures of the small evaluation."""

import pytest
from small_evaluation import PASSAGES, QUESTIONS, SHOWN, TUNED, prediction

from ragray.evaluation.judge import Judged, Verdicts
from ragray.evaluation.predictions import Prediction
from ragray.evaluation.report import Answerer, Document
from ragray.evaluation.report_parts import Versions
from ragray.evaluation.retrieval import measure
from ragray.evaluation.robustness import Reworded, measure_robustness
from ragray.evaluation.significance import Resampling
from ragray.evaluation.summary import CELLS, summarize
from ragray.manifest import Manifest, Source


@pytest.fixture
def predictions() -> list[Prediction]:
    rows = [prediction(q, cell, *TUNED[q]) for cell in ("tuned_retrieval", "engine_retrieval") for q in QUESTIONS]
    rows += [
        prediction(q, cell, "什么", (), "")
        for cell in ("base_closed_book", "base_retrieval", "tuned_closed_book")
        for q in QUESTIONS
    ]
    return rows[::-1]


@pytest.fixture
def retrieval_values() -> dict[str, dict[str, dict[str, float]]]:
    qrels = {q: dict.fromkeys(right, 1) for q, (_, _, _, right) in QUESTIONS.items() if right}
    rankings = {q: list(shown) for q, shown in SHOWN.items()}
    backwards = {q: ranking[::-1] for q, ranking in rankings.items()}
    return {
        "hybrid": measure(rankings, qrels),
        "bm25": measure(backwards, qrels),
        "tfidf": measure(rankings, qrels),
    }


@pytest.fixture
def document(predictions, retrieval_values) -> Document:
    def manifest(kind: str, inputs: tuple[str, ...]) -> Manifest:
        return Manifest(
            kind=kind,
            key="k" * 64,
            digest=f"{kind}-digest".ljust(64, "0"),
            format_version=1,
            inputs={name: Source(name, "/somewhere/else", "d" * 64) for name in inputs},
            config={"seed": 17, "text": "```<b>"},
            code="c" * 64,
            counts={"documents": 4},
            metrics={},
            timings_s={"total": 3.14159},
            files={},
            packages={},
        )

    resampling = Resampling(200, 17)
    engine = [p for p in predictions if p.cell == "engine_retrieval"]
    reworded = Reworded("typos", (), dict.fromkeys(QUESTIONS, "typo"), 1, shared=True)
    hybrid = retrieval_values["hybrid"]
    robustness = measure_robustness(reworded, engine, engine, (hybrid, hybrid), resampling)
    correct = Judged("correct", resampling.interval([1.0, 0.5], "x"), 3, {"not_json": 1}, 0.5, 0.83)
    judge = Verdicts("tuned_retrieval", "some-judge", "f" * 64, (correct,))
    return Document(
        name="test_run",
        summary=summarize(predictions, retrieval_values, resampling, [robustness], judge),
        predictions=tuple(predictions),
        passages=PASSAGES,
        answerers={cell: Answerer("transformers", "cpu", "fp32", "llama-1", "e" * 64) for cell in CELLS},
        manifests={"index": manifest("index", ("prepare",)), "merge": manifest("merge", ("train",))},
        settings={"max_new_tokens": 160},
        versions=Versions("tiny", "b" * 64, "a" * 64, "0.1.0", {"ray": "2.60.0"}),
    )
