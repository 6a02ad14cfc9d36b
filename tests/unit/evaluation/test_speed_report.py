"""The performance analysis: figures by hand, what the report says, the same bytes for the same figures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ragray.config_loading import validate_config
from ragray.config_speed import SpeedConfig
from ragray.errors import ConfigError
from ragray.evaluation.sections import render_html, render_markdown, write_report
from ragray.evaluation.speed_report import EngineSpeed, SpeedCell, cost_per_million, percentiles, speed_report

CELL = SpeedCell(8, 4, 128, 50, 20, 10.0, (0.1, 0.2, 0.3), (0.01, 0.02, 0.03), (0.6, 1.2, 1.8))
FAST = EngineSpeed("openvino int8 on cpu", "cpu", "A processor", 5 << 20, 0.5, 300 << 20, 400 << 20, (CELL,))
SLOW = replace(FAST, name="transformers fp32 on cpu", cells=(replace(CELL, seconds=40.0),))


def test_rates_and_cost_by_hand() -> None:
    assert CELL.tokens_per_s == 20 * 50 / 10.0
    assert CELL.requests_per_s == 2.0
    assert cost_per_million(CELL, 0.36) == pytest.approx(1.0), "100 tokens/s are 360,000 an hour"


def test_percentiles_of_known_values() -> None:
    assert percentiles([float(n) for n in range(101)]) == (50.0, 95.0, 99.0)
    assert percentiles([2.0]) == (2.0, 2.0, 2.0)


def test_the_report_shows_every_setting_and_the_cost_where_there_is_a_price(tmp_path: Path) -> None:
    report = speed_report("demo", [FAST, SLOW], {"cpu": 0.36}, "EUR")
    text = render_markdown(report)
    times = "100.0 / 200.0 / 300.0 | 10.0 / 20.0 / 30.0 | 600.0 / 1,200.0 / 1,800.0"
    row = f"| 8 | 4 | 128 | 50 | 20 | 2.00 | 100.0 | {times} | 1.000 |"
    assert row in text
    assert "**25 tokens/s**" in text and "**4.000 EUR**" in text
    assert "A processor | 5 | 0.5 | 300 | 400" in text
    write_report(tmp_path, report)
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {"latency.svg", "memory.svg"}
    assert render_html(speed_report("demo", [FAST, SLOW], {"cpu": 0.36}, "EUR")) == render_html(report)


def test_without_a_price_there_is_no_cost() -> None:
    assert "a million tokens" not in render_markdown(speed_report("demo", [FAST], {"H100": 3.0}, "EUR"))


def test_the_chart_has_a_point_for_each_load() -> None:
    many = replace(FAST, cells=tuple(replace(CELL, concurrency=n, seconds=20.0 / n) for n in (1, 4, 16)))
    svg = speed_report("demo", [many], {}, "EUR").charts["latency"]
    assert "mathdefault" not in svg, "labels of logarithmic axes are plain numbers"
    points = re.findall(r'<g clip-path="[^"]*">(.*?)</g>', svg, re.DOTALL)
    assert sum(group.count("<use") for group in points) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("new_tokens", [1]), ("concurrency", []), ("price_per_hour", {"cpu": 0}), ("price_per_hour", {"cpu": -1.0})],
)
def test_settings_that_cannot_be_measured_are_refused(field: str, value: object) -> None:
    tree = {"name": "t", "output": "o", "data": {"faq": [{"path": "x"}]}, "train": {"base_model": "m"}}
    validate_config({**tree, "speed": SpeedConfig().model_dump(mode="json")}, "test")
    with pytest.raises(ConfigError, match=f"speed.{field}"):
        validate_config({**tree, "speed": {field: value}}, "test")
