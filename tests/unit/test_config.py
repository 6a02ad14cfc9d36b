"""Configuration: every mistake at once, with what to write instead."""

from pathlib import Path

import pytest

from ragray.config import RunConfig
from ragray.config_loading import load_config
from ragray.config_reference import reference
from ragray.errors import EXIT_CONFIG, ConfigError

ROOT = Path(__file__).parents[2]
MINIMAL = "name: t\noutput: out\ndata: {faq: [{path: a.jsonl}]}\ntrain: {base_model: m}\n"


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_minimal_config_gets_all_defaults(minimal: Path) -> None:
    config = load_config(minimal)
    assert config.retrieval.rrf_k == 60
    assert config.train.lora.rank == 16


def test_overrides_are_yaml_and_reach_into_lists(minimal: Path) -> None:
    config = load_config(minimal, ["train.epochs=0.5", "data.faq.0.path=b.csv", "train.lora.target_modules=[q_proj]"])
    assert config.train.epochs == 0.5
    assert config.data.faq[0].path == "b.csv"
    assert config.train.lora.target_modules == ("q_proj",)


def test_whole_rankings_can_be_fused(minimal: Path) -> None:
    assert load_config(minimal).retrieval.fusion_depth == 100
    assert load_config(minimal, ["retrieval.fusion_depth=all"]).retrieval.fusion_depth == "all"


def test_all_mistakes_are_named_at_once_with_hints(minimal: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, ["train.lerning_rate=1", "serve.port=99999", "data.faq.0.colums={}"])
    text = str(caught.value)
    assert "train.lerning_rate: unknown key; did you mean learning_rate?" in text
    assert "serve.port" in text and "99999" in text
    assert "data.faq.0.colums: unknown key; did you mean columns?" in text
    assert caught.value.exit_code == EXIT_CONFIG


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "not of the form"),
        ("name.x=1", "is a value, not a section"),
        ("data.faq.7.path=x", "no position in a list of 1"),
        ("train.epochs=[", "not valid YAML"),
        ("data.split.valid=0.99", "must leave something for train"),
        ("data.passage_overlap_chars=400", "at most half"),
        ("retrieval.fusion_depth=0", r"retrieval.fusion_depth: write a number of ranks, at least 1, or all \(got 0\)"),
        ("retrieval.fusion_depth=none", "at least 1, or all"),
        ("retrieval.fusion_depth=true", "at least 1, or all"),
        ("retrieval.fusion_weights={bm25: 0, tfidf: 0}", "fusion_weights: at least one must be above 0"),
        ("retrieval.fusion_weights.bm25=-1", "greater than or equal to 0"),
        ("retrieval.fusion_weights.bm25=.inf", "finite number"),
    ],
)
def test_wrong_overrides(minimal: Path, override: str, said: str) -> None:
    overrides = [override, "data.split.test=0.5"] if "valid" in override else [override]
    with pytest.raises(ConfigError, match=said):
        load_config(minimal, overrides)


@pytest.mark.parametrize(("content", "said"), [("", "no settings"), ("- a", "no settings"), ("a: [", "not valid YAML")])
def test_files_that_are_no_config(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


def test_config_is_frozen(minimal: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(minimal).name = "x"  # type: ignore[misc]


def test_every_field_is_in_the_reference_and_the_page_is_current() -> None:
    text = reference()
    for section in RunConfig.model_fields:
        assert f"`{section}`" in text
    assert "`data.faq.0.columns.question`" in text
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == text, "run `make docs`"
