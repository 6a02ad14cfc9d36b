"""Words and synonyms of a user: what is read, and what is refused with what to do."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ragray import config_words
from ragray.config import AnalyzerConfig
from ragray.config_loading import load_retrieval
from ragray.errors import EXIT_CONFIG, ConfigError


def loaded(field: str, path: Path) -> tuple[str, ...]:
    analyzer = load_retrieval(None, [f"retrieval.analyzer.{field}={path}"]).analyzer
    return {"dictionary": analyzer.dictionary, "synonyms": analyzer.synonyms}[field]


def test_a_file_is_read_into_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xef\xbb\xbf# terms\r\n\r\nK8s\xe9\x9b\x86\xe7\xbe\xa4\r\n  C# \r\nC#\n")
    assert loaded("dictionary", path) == ("K8s集群", "C#")
    path.write_text("# hardware\nGPU, 显卡\n\na => b\n", encoding="utf-8")
    assert loaded("synonyms", path) == ("GPU, 显卡", "a => b")
    path.write_text("", encoding="utf-8")
    assert loaded("dictionary", path) == ()


def test_lists_are_settings_too() -> None:
    assert load_retrieval(None, ["retrieval.analyzer.dictionary=[K8s集群]"]).analyzer.dictionary == ("K8s集群",)


def test_recorded_settings_never_read_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("K8s集群\n", encoding="utf-8")
    with pytest.raises(ValidationError, match="only the settings of a run may name a file"):
        AnalyzerConfig.model_validate({"dictionary": str(path)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; paths are relative"),
        ("folder", "is a folder; name a text file in it"),
        (b"K8s\xbc\xaf\xc8\xba", r"not UTF-8 at byte 3; save it as UTF-8"),
        (b"\n" * ((1 << 20) + 1), "more than 1,048,576 bytes; leave out"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes | str | None, said: str) -> None:
    path = tmp_path / "words.txt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    for field in ("dictionary", "synonyms"):
        with pytest.raises(ConfigError, match=f"retrieval.analyzer.{field}: .*{said}") as caught:
            loaded(field, path)
        assert caught.value.exit_code == EXIT_CONFIG


def test_only_plain_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not a plain file"):
        loaded("dictionary", Path("/dev/null"))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(ConfigError, match="cannot be read: denied; name a readable file"):
        loaded("dictionary", Path(__file__))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["云计算 5 n"], "one word a line, without frequency or tag"),
        (["显卡", " "], "has an empty place"),
        (["云" * 65], "has 65 characters; write at most 64"),
        ([3], "valid string"),
    ],
)
def test_words_that_are_refused(words: list[object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AnalyzerConfig.model_validate({"dictionary": words})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["GPU"], "is one phrase; write at least two"),
        (["GPU,, 显卡"], "has an empty place"),
        (["GPU, "], "has an empty place"),
        (["=> b"], "has an empty place"),
        (["a => b => c"], "has two =>; write one rule a line"),
        (["a => A"], "reads a phrase as itself"),
        (["a, b => b, a"], "reads a phrase as itself"),
        (["GPU, ＧＰＵ"], "names a phrase twice"),
        (["GPU, 显卡", "x => y", "gpu, graphics card"], "'gpu' is in two lines, 'GPU, 显卡' and 'gpu, graphics card'"),
        (["a => b", "a => c"], "'a' is in two lines"),
        (["a, b", "b => c"], "'b' is in two lines"),
        (["a => b", "b => c"], "'a => b' leads to 'b', which 'b => c' reads as something else"),
        (["a => b", "b => a"], "leads to 'b'.*`a, b` where they mean the same"),
        (["a, " + "b" * 65], "has 65 characters"),
    ],
)
def test_synonyms_that_are_refused(lines: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AnalyzerConfig.model_validate({"synonyms": lines})


def test_synonyms_that_are_read() -> None:
    rule = config_words.synonym_rule("poodle，贵宾犬 =>  poodle 、 small   dog", "here")
    assert rule.phrases == ("poodle", "贵宾犬") and rule.right == ("poodle", "small dog")
    assert AnalyzerConfig(synonyms=("poodle => poodle, dog", "dog, 狗")).synonyms == (
        "poodle => poodle, dog",
        "dog, 狗",
    )


def test_the_same_line_twice_says_nothing_new() -> None:
    for line in ("GPU, 显卡", "x, a => a", "notebook => laptop computer"):
        lines = (line, "  ".join(("", line)))  # equal when read, and not the same object
        assert AnalyzerConfig(synonyms=lines).synonyms == (line, line)


def test_lists_may_not_be_larger_than_a_file() -> None:
    with pytest.raises(ValidationError, match="more than 1,048,576 bytes"):
        AnalyzerConfig(dictionary=tuple(f"词{n:060d}" for n in range(17_000)))
