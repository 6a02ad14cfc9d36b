"""How sure a figure is: bootstrap intervals, and a paired test of two runs on the same questions.

In: one value for each question. Out: `Interval` and `Difference`. The random numbers depend on the
seed and the label alone, so a report can be made again byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragray.schema import stable_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CONFIDENCE = 0.95
_BLOCK = 4_000_000  # random numbers held at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` questions with its 95 % bootstrap interval; `mean` is None where n = 0."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `first - second` over the same `n` questions, its 95 % interval and two-sided p-value."""

    mean: float
    low: float
    high: float
    p_value: float
    n: int


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals and tests are made: resamples of the questions, and the run's seed.

    Each figure's `label` goes into its random numbers, so that figures have independent resamples.
    """

    samples: int
    seed: int

    def interval(self, values: Sequence[float], label: str) -> Interval:
        """The mean of one value for each question, and its percentile bootstrap interval.

        Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
        """
        if not values:
            return Interval(None, None, None, 0)
        import numpy as np

        data = np.asarray(values, dtype=np.float64)
        low, high = _percentiles(_resampled_means(data, self.samples, self._generator(label)))
        return Interval(float(data.mean()), low, high, len(data))

    def compare(self, first: Sequence[float], second: Sequence[float], label: str) -> Difference:
        """Two runs on the same questions: paired bootstrap interval, and paired randomization test.

        The test swaps the two runs' values of a question with probability 1/2; p = (1 + how often the
        difference is at least as large as seen) / (1 + samples).
        Source: Noreen 1989; Smucker, Allan and Carterette 2007, "A Comparison of Statistical
        Significance Tests for Information Retrieval Evaluation"; the +1: Phipson and Smyth 2010.

        Raises:
            ValueError: the runs differ in length or are empty.
        """
        import numpy as np

        if len(first) != len(second) or not first:
            raise ValueError(f"a paired comparison needs the same questions, got {len(first)} and {len(second)}")
        gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
        random = self._generator(label)
        low, high = _percentiles(_resampled_means(gaps, self.samples, random))
        seen = abs(float(gaps.mean()))
        swapped = np.abs(_swapped_means(gaps, self.samples, random))
        as_large = int(np.count_nonzero(swapped >= seen - 1e-12))
        return Difference(float(gaps.mean()), low, high, (1 + as_large) / (1 + self.samples), len(gaps))

    def compare_counted(self, first: Sequence[float | None], second: Sequence[float | None], label: str) -> Difference:
        """As `compare`, where a run may leave questions out (None): the difference of means over what each counts.

        Resamples and swaps are of whole questions, counted or not. `n` is of the questions that either run counts.
        Without any None its mean is what `compare` gives, its p within what resampling varies.

        Raises:
            ValueError: the runs differ in length, or one of them counts no question.
        """
        import numpy as np

        pairs = [pair for pair in zip(first, second, strict=True) if pair != (None, None)]
        values = np.array([[np.nan if value is None else value for value in pair] for pair in pairs], dtype=np.float64)
        if not pairs or np.isnan(values).all(axis=0).any():
            raise ValueError("a comparison needs a question that each run counts")
        random, rows = self._generator(label), _rows(self.samples, 2 * len(pairs))
        means = [_gap(values[random.integers(0, len(values), (count, len(values)))]) for count in rows]
        swaps = [_gap(_swapped(values, random.integers(0, 2, (count, len(values))) == 1)) for count in rows]
        resampled, swapped = (np.concatenate(blocks) for blocks in (means, swaps))
        low, high = _percentiles(resampled[~np.isnan(resampled)])
        mean = float(_gap(values[None])[0])
        as_large = int(np.count_nonzero(np.abs(swapped[~np.isnan(swapped)]) >= abs(mean) - 1e-12))
        return Difference(mean, low, high, (1 + as_large) / (1 + self.samples), len(pairs))

    def _generator(self, label: str) -> np.random.Generator:
        import numpy as np

        return np.random.Generator(np.random.PCG64(stable_digest("bootstrap", self.seed, label)))


def _resampled_means(
    data: npt.NDArray[np.float64], samples: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    import numpy as np

    blocks = [data[random.integers(0, len(data), (rows, len(data)))].mean(axis=1) for rows in _rows(samples, len(data))]
    return np.concatenate(blocks)


def _swapped_means(gaps: npt.NDArray[np.float64], samples: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    import numpy as np

    blocks = [
        (gaps * (2.0 * random.integers(0, 2, (rows, len(gaps))) - 1.0)).mean(axis=1)
        for rows in _rows(samples, len(gaps))
    ]
    return np.concatenate(blocks)


def _swapped(values: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """float64 [samples, questions, 2]: the two runs' values [questions, 2], exchanged where `kept` is False."""
    import numpy as np

    return np.where(kept[:, :, None], values, values[:, ::-1])


def _gap(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [samples]: the mean of the first run less that of the second, NaN where one counts nothing."""
    import numpy as np

    counted = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = np.where(counted, values, 0.0).sum(axis=1) / counted.sum(axis=1)
    return np.asarray(means[:, 0] - means[:, 1])


def _rows(samples: int, width: int) -> list[int]:
    """`samples` cut into blocks that fit the memory."""
    step = max(1, _BLOCK // width)
    return [min(step, samples - start) for start in range(0, samples, step)]


def _percentiles(means: npt.NDArray[np.float64]) -> tuple[float, float]:
    import numpy as np

    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)
