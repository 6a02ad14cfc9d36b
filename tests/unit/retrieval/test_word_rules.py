"""A user's words and synonyms, and traditional Chinese: the same for index and query, and recorded by content."""

import builtins
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import PASSAGES, passage  # type: ignore[import-not-found]

from ragray.config import AnalyzerConfig, RetrievalConfig
from ragray.config_loading import load_retrieval
from ragray.errors import EXIT_CONFIG, ArtifactError, ConfigError
from ragray.retrieval.analyzer import Analyzer, check_analyzer
from ragray.retrieval.counting import count_terms, count_texts
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.phrases import Phrases
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import DESCRIPTION, build_index

SYNONYMS = ("GPU, 显卡, graphics card", "poodle => poodle, dog", "IL-6, interleukin-6", "TT => 图形 GPU")
WORDS = ("K8s集群", "湖仓一体", "R&D", "云")
PLAIN = AnalyzerConfig(chinese="words", stem=False, stop_words=False)


def made(**options: object) -> Analyzer:
    return Analyzer(AnalyzerConfig.model_validate(PLAIN.model_dump() | options))


def terms(text: str, **options: object) -> list[str]:
    return made(**options).terms(text)


def test_the_longest_phrase_from_the_left_is_found() -> None:
    phrases = Phrases({("a", "b"): ("ab",), ("a", "b", "c"): ("abc",), ("b",): None, ("c", "d"): ("cd",)})
    assert list(phrases.found("xabcdab")) == [(1, 4, ("abc",)), (5, 7, ("ab",))]
    assert list(phrases.found("bcda")) == [(0, 1, None), (1, 3, ("cd",))]
    assert list(phrases.found("")) == []


def test_words_of_the_dictionary_stay_whole() -> None:
    assert terms("云原生湖仓一体化") == ["云", "原生", "湖仓", "一体化"]
    assert terms("云原生湖仓一体化", dictionary=WORDS) == ["云", "原生", "湖仓一体", "化"]
    found = terms("湖仓一体", chinese="both", dictionary=WORDS)
    assert found == ["湖仓", "仓一", "一体", "湖仓一体"]
    assert terms("湖仓一体", chinese="bigrams", dictionary=WORDS) == found
    assert terms("怎么", dictionary=["怎么"], stop_words=True) == ["怎么"]


def test_mixed_words_stay_whole_beside_their_parts() -> None:
    assert terms("在k8s集群上", dictionary=WORDS) == ["在", "k8s集群", "k8s", "8", "集群", "上"]
    assert terms("an R&D team", dictionary=WORDS) == ["an", "r&d", "r", "d", "team"]
    assert "k8s集群" not in terms("XK8s集群 K8s 集群", dictionary=WORDS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("训练GPU集群", "训练显卡集群"),
        ("the new GPU node", "the new Graphics  Card node"),
        ("an IL6 level", "an Interleukin-6 level"),
        ("GPU", "ＧＰＵ"),
        ("TT", "图形GPU"),
    ],
)
@pytest.mark.parametrize("chinese", ["bigrams", "words", "both"])
def test_phrases_of_a_group_give_the_same_terms(one: str, other: str, chinese: str) -> None:
    assert terms(one, chinese=chinese, synonyms=SYNONYMS) == terms(other, chinese=chinese, synonyms=SYNONYMS) != []


def test_stems_and_identifiers_meet_synonyms() -> None:
    assert (
        terms("graphics cards", stem=True, synonyms=SYNONYMS) == terms("显卡", stem=True, synonyms=SYNONYMS) == ["gpu"]
    )
    assert terms("显卡-node GPU-node", synonyms=["显卡, GPU"]) == ["显卡", "node", "gpunode", "显卡", "node"]
    assert terms("graphics, card", synonyms=SYNONYMS) == ["graphics", "card"]


def test_what_is_rewritten_is_not_what_it_is_rewritten_to() -> None:
    assert terms("poodle", synonyms=SYNONYMS) == ["poodle", "dog"]
    assert terms("dog", synonyms=SYNONYMS) == ["dog"]
    assert terms("a => b", synonyms=["a => 显卡", "显卡, GPU"]) == ["显卡", "b"]
    assert terms("a", synonyms=["a => GPU card", "GPU card, 显卡", "card => 卡片"]) == ["gpucard"]


def test_the_longest_of_words_and_synonyms_counts() -> None:
    assert terms("显卡驱动", dictionary=["显卡驱动"], synonyms=SYNONYMS) == ["显卡驱动"]
    assert terms("显卡驱动", dictionary=["显卡驱动"], synonyms=["显卡驱动, driver"]) == ["显卡驱动"]
    assert terms("driver", synonyms=["显卡驱动, driver"]) == ["显卡驱动"]


def test_traditional_chinese_is_read_as_simplified() -> None:
    assert terms("頭髮", chinese="bigrams") == ["頭髮"]
    assert terms("頭髮與電腦", simplified=True) == terms("头发与电脑") == ["头发", "与", "电脑"]
    assert terms("顯卡", simplified=True, synonyms=SYNONYMS) == ["gpu"]
    assert terms("显卡", simplified=True, synonyms=["GPU, 顯卡"]) == ["gpu"]


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "opencc":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"ragray\[data\]") as caught:
        made(simplified=True)
    assert caught.value.exit_code == EXIT_CONFIG


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dictionary": [".NET"]}, "'.NET' begins or ends with a mark"),
        ({"dictionary": ["!?"]}, "begins or ends with a mark"),
        ({"dictionary": ["a¨b"]}, "stands for white space"),
        ({"synonyms": ["it, 信息"], "stop_words": True}, "'it' has no terms"),
        ({"synonyms": ["GPU, 显卡", "GPUs, card"], "stem": True}, "'GPUs' is in two lines"),
        ({"synonyms": ["x => my 显卡", "显卡 => GPU"]}, "leads to 'my 显卡'"),
        ({"synonyms": ["x => my card", "card => GPU"]}, "leads to 'my card'"),
        ({"synonyms": ["train => 训练", "dog => training"], "stem": True}, "leads to 'training'"),
    ],
)
def test_rules_that_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        made(**options)
    assert caught.value.exit_code == EXIT_CONFIG and caught.value.fix


texts = st.lists(
    st.sampled_from([*"显卡湖仓一体云頭髮后 \n.-&", "GPU", "graphics", "card", "K8s", "集群", "R&D", "poodle", "IL-6"]),
    max_size=12,
).map("".join)


def counted(titles: Sequence[str], analyzer: Analyzer) -> dict[str, list[tuple[int, int]]]:
    count = count_texts if analyzer.joins_words else count_terms
    found = count([(pa.array(titles, pa.large_string()), 2)], analyzer.terms)
    edges = found.starts.tolist()
    return {
        name.decode(): list(zip(found.documents[a:b].tolist(), found.counts[a:b].tolist(), strict=True))
        for name, a, b in zip(found.vocabulary.to_pylist(), edges[:-1], edges[1:], strict=True)
    }


@pytest.mark.parametrize("synonyms", [SYNONYMS, SYNONYMS[1:]])
@settings(deadline=None)
@given(titles=st.lists(texts, min_size=1, max_size=4))
def test_an_index_counts_the_terms_of_whole_texts(synonyms: tuple[str, ...], titles: list[str]) -> None:
    analyzer = made(dictionary=WORDS, synonyms=synonyms, simplified=True, stem=True)
    assert analyzer.joins_words == (synonyms is SYNONYMS)
    told = [analyzer.terms(title) for title in titles]
    assert counted(titles, analyzer) == {
        term: [(n, 2 * held.count(term)) for n, held in enumerate(told) if term in held]
        for term in sorted({term for held in told for term in held}, key=str.encode)
    }


def test_an_index_holds_what_was_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("GPU, 显卡, graphics card\n", encoding="utf-8")
    chosen = load_retrieval(None, [f"retrieval.analyzer.synonyms={path}"])
    (tmp_path / "index").mkdir()
    build_index([*PASSAGES, passage("card", "", "A graphics card.")], chosen, tmp_path / "index")
    path.unlink()
    opened = HybridIndex.open(tmp_path / "index")
    assert {hit.doc_id for hit in opened.search("显卡", 3)} == {"gpu", "card"}
    assert opened.analyzer.describe()["options"]["synonyms"] == ("GPU, 显卡, graphics card",)
    store = IndexStore.create(tmp_path / "store", tmp_path / "index")
    store.update([passage("new", "", "eine Graphics Card")])
    assert {hit.doc_id for hit in store.open().search("GPU", 3)} == {"gpu", "card", "new"}


def test_other_words_are_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("湖仓一体\n", encoding="utf-8")
    before, again = (load_retrieval(None, [f"retrieval.analyzer.dictionary={path}"]) for _ in range(2))
    path.write_text("湖仓\n", encoding="utf-8")
    after = load_retrieval(None, [f"retrieval.analyzer.dictionary={path}"])
    assert before == again != after and before.model_dump() != after.model_dump()


@pytest.mark.parametrize("field", ["analyzer", "title_weight"])
def test_an_index_whose_parts_disagree_is_refused(folder: Path, tmp_path: Path, field: str) -> None:
    changed = shutil.copytree(folder, tmp_path / "index")
    description = json.loads((changed / DESCRIPTION).read_text(encoding="utf-8"))
    if field == "analyzer":
        description["analyzer"]["options"]["dictionary"] = ["湖仓一体"]
    else:
        description["title_weight"] = 5
    (changed / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ArtifactError, match="made with other settings than it names"):
        HybridIndex.open(changed)


def test_an_index_made_before_these_options_opens(folder: Path) -> None:
    recorded = Analyzer(AnalyzerConfig()).describe()
    old = {name: recorded["options"][name] for name in ("chinese", "stem", "stop_words")}
    assert check_analyzer(recorded | {"options": old}, "here").settings == AnalyzerConfig()


def test_a_recorded_path_is_not_read(tmp_path: Path) -> None:
    recorded = Analyzer(PLAIN).describe()
    recorded["options"]["dictionary"] = "/etc/hostname"
    with pytest.raises(ArtifactError, match="only the settings of a run may name a file"):
        check_analyzer(recorded, "here")


@pytest.mark.parametrize("weight", [0, 1, 3, 10])
def test_a_title_counts_so_often(tmp_path: Path, weight: int) -> None:
    chosen = RetrievalConfig(title_weight=weight)
    build_index([passage("a", "zebra", "lion"), passage("b", "", "lion zebra")], chosen, tmp_path)
    opened = HybridIndex.open(tmp_path)
    assert opened.settings.title_weight == weight
    (postings,) = opened.corpus.parts
    assert postings.segment.lengths.tolist() == [weight + 1, 2]
    assert [hit.doc_id for hit in opened.search("zebra", 2)] == (["a", "b"] if weight else ["b"])


def test_a_changed_weight_is_another_setting_of_a_run() -> None:
    assert load_retrieval(None, ["retrieval.title_weight=0"]).title_weight == 0
    for wrong in ("-1", "11", "1.5"):
        with pytest.raises(ConfigError, match=r"retrieval\.title_weight"):
            load_retrieval(None, [f"retrieval.title_weight={wrong}"])
