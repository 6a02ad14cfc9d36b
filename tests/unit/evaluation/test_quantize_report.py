"""The report names every model's figures and the gate's reason, and draws quality against size and speed."""

from pathlib import Path

from ragray.config_quantize import GateConfig
from ragray.evaluation.gate import Candidate, decide
from ragray.evaluation.quantize_report import SHOWN, ModelFigures, write_quantize_report
from ragray.evaluation.significance import Interval, Resampling


def model(name: str, megabytes: float, f1: float, speed: float | None) -> ModelFigures:
    figures = {
        "algorithm": f"how {name} works", "bytes": int(megabytes * 1e6), "kl_nats": 0.0123, "argmax_agreement": 0.987,
        "perplexity": 4.5, "positions": 321, "used_by": f"loader of {name}",
    }  # fmt: skip
    memory = None if speed is None else 12_345_678
    costs = {"load_s": speed, "memory_bytes": memory, "peak_memory_bytes": memory, "tokens_per_second": speed}
    return ModelFigures(name, figures, costs, {metric: Interval(f1, f1 - 0.1, f1 + 0.1, 9) for metric in SHOWN})


def write(folder: Path, models: list[ModelFigures]) -> tuple[str, str]:
    values = {each.name: (each.scores["f1"].mean,) * 4 for each in models}
    candidates = [
        Candidate(m.name, m.figures["bytes"], m.costs["tokens_per_second"], 0.0123, values[m.name]) for m in models
    ]
    decision = decide(candidates[0], candidates[1:], GateConfig(), Resampling(50, 1))
    write_quantize_report(folder, "demo", models, decision, GateConfig())
    return (folder / "report.md").read_text(), (folder / "report.html").read_text()


def test_every_model_stands_in_every_table(tmp_path: Path) -> None:
    models = [model("full", 94.0, 0.6, 10.0), model("half", 40.0, 0.59, 20.0), model("bad", 20.0, 0.1, 30.0)]
    markdown, html = write(tmp_path, models)
    for text in (markdown, html):
        assert text.count("how half works") == text.count("loader of half") == 1
        for figure in ("94.0", "40.0", "20.0", "0.0123", "0.9870", "4.500", "321", "12"):
            assert figure in text
    assert "| half | chosen |" in markdown and "| bad | refused |" in markdown
    assert "smaller and answers as well as: bad, half, full." in markdown
    assert "faster and answers as well as: bad, half, full." in markdown
    for name in ("size", "speed"):
        assert (tmp_path / "charts" / f"{name}.svg").read_text().startswith("<?xml")
        assert f"charts/{name}.svg" in markdown
    assert html.count("data:image/svg+xml") == 2


def test_a_beaten_model_is_not_on_the_front(tmp_path: Path) -> None:
    models = [model("full", 94.0, 0.6, 10.0), model("large", 99.0, 0.5, 5.0), model("good", 20.0, 0.6, 30.0)]
    markdown, _ = write(tmp_path, models)
    assert markdown.count("answers as well as: good.") == 2


def test_what_was_not_timed_is_shown_by_a_dash_and_has_no_place_in_the_chart_of_speed(tmp_path: Path) -> None:
    models = [model("full", 94.0, 0.6, None), model("half", 40.0, 0.6, None)]
    markdown, html = write(tmp_path, models)
    assert "| half | how half works | loader of half | 40.0 | - | - | - | - |" in markdown
    assert not (tmp_path / "charts" / "speed.svg").exists()
    assert html.count("data:image/svg+xml") == 1
