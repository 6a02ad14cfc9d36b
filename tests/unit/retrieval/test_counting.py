"""Terms counted by runs are those that the analyzer gives for whole texts."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.config import AnalyzerConfig
from ragray.retrieval import counting
from ragray.retrieval.analyzer import Analyzer
from ragray.retrieval.counting import count_terms

PIECES = [
    "ray.train",
    "1,234,567",
    "K8s集群",
    "部署服务",
    "C#",
    "c++",
    "\u3000",
    "\u00a0",
    "ﬁne",
    "e\u0301",
    "\u0301",
    "2.60.1",
]
texts = (
    st.lists(
        st.one_of(st.sampled_from([*PIECES, " ", "\n", "\t", "\x1c", "\u2028", "the", "GPUs"]), st.text(max_size=4)),
        max_size=10,
    )
    .map("".join)
    .filter(lambda text: text.isprintable() or max(text, default="") < "\ud800")
)
ANALYZERS = [AnalyzerConfig(), AnalyzerConfig.model_validate({"chinese": "both", "stem": False, "stop_words": False})]


def expected(documents: list[tuple[str, str]], analyzer: Analyzer) -> list[Counter[str]]:
    return [
        Counter({term: 3 * n for term, n in Counter(analyzer.terms(title)).items()}) + Counter(analyzer.terms(text))
        for title, text in documents
    ]


def counted(documents: list[tuple[str, str]], analyzer: Analyzer) -> tuple[list[Counter[str]], list[str], list[int]]:
    titles, bodies = (pa.array(column, pa.large_string()) for column in zip(*documents, strict=True))
    counts = count_terms([(titles, 3), (bodies, 1)], analyzer.terms)
    names = [name.decode() for name in counts.vocabulary.to_pylist()]
    found: list[Counter[str]] = [Counter() for _ in documents]
    for term, name in enumerate(names):
        held = counts.documents[counts.starts[term] : counts.starts[term + 1]].tolist()
        assert held == sorted(set(held))
        for place, document in enumerate(held, counts.starts[term]):
            found[document][name] = int(counts.counts[place])
    return found, names, counts.lengths.tolist()


@pytest.mark.parametrize("options", ANALYZERS)
@settings(max_examples=150, deadline=None)
@given(documents=st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_runs_give_the_terms_of_texts(options: AnalyzerConfig, documents: list[tuple[str, str]]) -> None:
    analyzer = Analyzer(options)
    found, names, lengths = counted(documents, analyzer)
    right = expected(documents, analyzer)
    assert found == right
    assert names == sorted(names, key=str.encode)
    assert lengths == [counts.total() for counts in right]


def test_the_table_of_runs_grows_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer = Analyzer(AnalyzerConfig())
    documents = [(f"title{n % 7}", f"word{n} word{n % 100} " + "x" * (n % 30)) for n in range(70_000)]
    whole = counted(documents, analyzer)
    monkeypatch.setattr(counting, "_DOCUMENTS", 999)
    assert counted(documents, analyzer) == whole
    assert len(whole[1]) > 70_000
    assert whole[0][69_999] == expected(documents[-1:], analyzer)[0]


def test_an_analyzer_is_asked_once_for_each_run() -> None:
    asked: list[str] = []

    def terms_of(run: str) -> list[str]:
        asked.append(run)
        return [run]

    count_terms([(pa.array(["a b a", "", "b\tc  a "], pa.large_string()), 1)], terms_of)
    assert asked == ["a", "b", "c"]
