"""The charts of a report of `ragray tune`."""

import pytest

from ragray.evaluation.tuning_charts import _MOST_BARS, _bars


def test_very_many_queries_share_bars():
    values = [1.0 - n / 5000 for n in range(5000)]
    places, heights, width = _bars(values, 100)
    assert len(places) <= _MOST_BARS and width == pytest.approx(0.86 * 13)
    assert places[0] == 106 and heights[0] == pytest.approx(sum(values[:13]) / 13)
