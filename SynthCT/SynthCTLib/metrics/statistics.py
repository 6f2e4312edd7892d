"""What figures of several subjects say together: summaries, intervals, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from SynthCTLib.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 4999
SEED = 11  # the same resamples in every run: the same data give the same interval
_FEWEST = 3  # subjects, for an interval or a test
_LIMITS = 1.96  # of agreement: mean ± 1.96 SD holds 95 % of normal differences


@dataclass(frozen=True)
class Summary:
    """A figure over subjects. ``sd`` is of the sample (n - 1); ``missing`` had no finite value.

    ``ci_low`` and ``ci_high`` are the 95 % bootstrap interval of the mean (bias-corrected and
    accelerated; Efron 1987), NaN for fewer than three subjects; all is NaN where ``n`` is 0.
    """

    n: int
    missing: int
    mean: float
    sd: float
    median: float
    ci_low: float
    ci_high: float
    least: float
    greatest: float


@dataclass(frozen=True)
class PairedDifference:
    """A figure of two methods over the same subjects: second minus first.

    ``ci_low``, ``ci_high``: 95 % bootstrap interval of the mean difference. ``limits_low``,
    ``limits_high``: Bland and Altman's limits of agreement, mean ± 1.96 SD (Lancet 327 (1986)
    307). ``t``, ``t_p``: paired t-test; ``w``, ``w_p``: Wilcoxon's signed-rank test, both
    two-sided. Tests are NaN for fewer than three subjects and where all differences are equal
    (t) or all are zero (w).
    """

    n: int
    mean: float
    sd: float
    ci_low: float
    ci_high: float
    limits_low: float
    limits_high: float
    t: float
    t_p: float
    w: float
    w_p: float


def summarise(values: Sequence[float]) -> Summary:
    """Mean, spread, median and interval of the finite values."""
    given = np.asarray(values, np.float64)
    kept = given[np.isfinite(given)]
    nan = math.nan
    if not kept.size:
        return Summary(0, given.size, nan, nan, nan, nan, nan, nan, nan)
    low, high = mean_interval(kept)
    return Summary(
        int(kept.size),
        int(given.size - kept.size),
        float(kept.mean()),
        float(kept.std(ddof=1)) if kept.size > 1 else nan,
        float(np.median(kept)),
        low,
        high,
        float(kept.min()),
        float(kept.max()),
    )


def mean_interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; NaN for fewer than three values."""
    if values.size < _FEWEST:
        return math.nan, math.nan
    if np.ptp(values) == 0.0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compare two methods over the same subjects, in the same order.

    Subjects with a value that is not finite in one of them are left out of both. Raises
    InputError when the numbers of values differ.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InputError(
            f"{a.size} and {b.size} values cannot be paired: give one of each for each subject."
        )
    with np.errstate(invalid="ignore"):
        difference = (b - a)[np.isfinite(a) & np.isfinite(b)]
    nan = math.nan
    n = int(difference.size)
    if not n:
        return PairedDifference(0, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan)
    mean, sd = float(difference.mean()), float(difference.std(ddof=1)) if n > 1 else nan
    low, high = mean_interval(difference)
    t = t_p = w = w_p = nan
    if n >= _FEWEST:
        if np.ptp(difference) > 0.0:
            result = stats.ttest_1samp(difference, 0.0)
            t, t_p = float(result.statistic), float(result.pvalue)
        if difference.any():
            ranks = stats.wilcoxon(difference)
            w, w_p = float(ranks.statistic), float(ranks.pvalue)
    return PairedDifference(
        n, mean, sd, low, high, mean - _LIMITS * sd, mean + _LIMITS * sd, t, t_p, w, w_p
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected for how many there are (Holm, Scand J Stat 6 (1979) 65).

    The k-th smallest of m is multiplied by m - k + 1, none may fall below the one before, none
    exceeds 1. NaN (no test) stays NaN and does not count.
    """
    given = np.asarray(p_values, np.float64)
    corrected = given.copy()
    tested = np.flatnonzero(np.isfinite(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return tuple(corrected.tolist())
