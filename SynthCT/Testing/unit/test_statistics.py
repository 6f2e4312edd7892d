"""Statistics of cohorts against scipy, by hand, and where they say that there is nothing to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.cohort import Record, main_figures, mean_curve, tables_of, title_of
from SynthCTLib.metrics.error_curve import error_curve
from SynthCTLib.metrics.masked import MaskedPair
from SynthCTLib.metrics.statistics import holm, mean_interval, paired_difference, summarise

RNG = np.random.default_rng(5)


def test_summary_by_hand() -> None:
    found = summarise([1.0, 2.0, 6.0, math.nan, math.inf])
    assert (found.n, found.missing) == (3, 2)
    assert (found.mean, found.median, found.least, found.greatest) == (3.0, 2.0, 1.0, 6.0)
    assert found.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert found.ci_low < 3.0 < found.ci_high


def test_summary_of_few() -> None:
    nothing = summarise([math.nan])
    assert (nothing.n, nothing.missing) == (0, 1)
    assert math.isnan(nothing.mean)
    one = summarise([4.0])
    assert (one.mean, one.median) == (4.0, 4.0)
    assert math.isnan(one.sd)
    assert math.isnan(one.ci_low)
    same = summarise([4.0, 4.0, 4.0])
    assert (same.sd, same.ci_low, same.ci_high) == (0.0, 4.0, 4.0)


def test_interval_is_that_of_the_normal_where_values_are() -> None:
    values = RNG.normal(100, 20, 400)
    low, high = mean_interval(values)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.4)
    assert mean_interval(values) == (low, high)  # the same in every run


def test_paired_difference_agrees_with_scipy() -> None:
    first = RNG.normal(100, 20, 25)
    second = first + RNG.normal(3, 8, 25)
    found = paired_difference(first, second)
    t = stats.ttest_rel(second, first)
    w = stats.wilcoxon(second, first)
    assert (found.t, found.t_p) == pytest.approx((t.statistic, t.pvalue))
    assert (found.w, found.w_p) == pytest.approx((w.statistic, w.pvalue))
    assert found.ci_low < found.mean < found.ci_high
    swapped = paired_difference(second, first)
    assert (swapped.mean, swapped.t) == pytest.approx((-found.mean, -found.t))
    assert swapped.w_p == pytest.approx(found.w_p)


def test_limits_of_agreement_by_hand() -> None:
    found = paired_difference([10.0, 20, 30, math.nan, 1], [11.0, 23, 35, 4, math.inf])
    assert (found.n, found.mean, found.sd) == (3, 3.0, 2.0)
    assert (found.limits_low, found.limits_high) == pytest.approx((3 - 3.92, 3 + 3.92))


def test_tests_that_cannot_be_made_are_not() -> None:
    assert paired_difference([math.nan], [1.0]).n == 0
    assert math.isnan(paired_difference([1.0, 2], [2.0, 4]).t_p)
    shifted = paired_difference([1.0, 2, 3, 4], [2.0, 3, 4, 5])
    assert math.isnan(shifted.t_p)  # no spread to divide by
    assert shifted.w_p == pytest.approx(2 / 2**4)  # all four ranks on one side
    equal = paired_difference([1.0, 2, 3], [1.0, 2, 3])
    assert math.isnan(equal.t_p)
    assert math.isnan(equal.w_p)
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference([1.0], [1.0, 2.0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.6]) == pytest.approx((1.0, 1.0))
    with_none = holm([math.nan, 0.02, 0.04])
    assert math.isnan(with_none[0])
    assert with_none[1:] == pytest.approx((0.04, 0.04))
    assert holm([]) == ()


def test_holm_rejects_no_more_than_plain_and_no_less_than_bonferroni() -> None:
    p = RNG.random(30) ** 3
    corrected = np.array(holm(p))
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(p * p.size, 1) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()


# Tables


def record(subject: str, method: str, mae: float, **more: object) -> Record:
    figures = {"head.mae_hu": mae, "head.ssim": 0.9, "lines.mae_percent": mae / 10}
    return Record(subject, method, figures, **more)  # type: ignore[arg-type]


def test_tables_by_hand() -> None:
    records = [
        record("s1", "a", 100.0, fold="1", strata={"site": "X"}),
        record("s2", "a", 110.0, fold="1", strata={"site": "Y"}),
        record("s3", "a", 120.0, fold="2", strata={"site": "X"}),
        record("s1", "b", 90.0, fold="1", strata={"site": "X"}),
        record("s3", "b", 90.0, fold="2", strata={"site": "X"}),
    ]
    tables = tables_of(records)
    assert tables.methods == ("a", "b")
    assert tables.subjects == ("s1", "s2", "s3")
    assert tables.main == ("head.mae_hu", "head.ssim", "lines.mae_percent")
    assert tables.summary("a", "head.mae_hu").mean == 110.0
    assert tables.summary("a", "head.mae_hu", "fold", "1").mean == 105.0
    assert tables.summary("a", "head.mae_hu", "site", "X").mean == 110.0
    assert tables.summary("b", "head.mae_hu").n == 2
    (mae, *_) = tables.comparisons
    assert (mae.figure, mae.first, mae.second) == ("head.mae_hu", "a", "b")
    assert (mae.difference.n, mae.difference.mean) == (2, -20.0)  # s2 has no partner
    with pytest.raises(KeyError):
        tables.summary("c", "head.mae_hu")


def test_every_pair_of_methods_is_corrected_for_all_tests() -> None:
    records = [
        record(f"s{i}", method, 100 + i + shift + float(RNG.normal(0, 2)))
        for method, shift in (("a", 0), ("b", 3), ("c", 3))
        for i in range(8)
    ]
    tables = tables_of(records, ["head.mae_hu"])
    assert [(r.first, r.second) for r in tables.comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [r.t_p_holm for r in tables.comparisons] == pytest.approx(
        holm([r.difference.t_p for r in tables.comparisons])
    )
    assert max(r.t_p_holm for r in tables.comparisons) > min(
        r.difference.t_p for r in tables.comparisons
    )


def test_many_numbers_are_divided_into_thirds() -> None:
    records = [record(f"s{i}", "a", float(i), strata={"age": str(10 * i)}) for i in range(9)]
    groups = [r.value for r in tables_of(records).summaries if r.group == "age"]
    assert list(dict.fromkeys(groups)) == ["up to 26.67", "26.67 to 53.33", "above 53.33"]
    few = [record(f"s{i}", "a", float(i), strata={"dose": str(i % 2)}) for i in range(9)]
    assert {r.value for r in tables_of(few).summaries if r.group == "dose"} == {"0", "1"}
    text = [record(f"s{i}", "a", float(i), strata={"site": f"s{i}"}) for i in range(9)]
    assert len({r.value for r in tables_of(text).summaries if r.group == "site"}) == 9


def test_tables_refuse_what_they_cannot_tell() -> None:
    with pytest.raises(InputError, match="no subject"):
        tables_of([])
    with pytest.raises(InputError, match="s1 appears twice with the method a"):
        tables_of([record("s1", "a", 1.0), record("s1", "a", 2.0)])
    with pytest.raises(InputError, match=r"no figure 'head\.beauty'"):
        tables_of([record("s1", "a", 1.0)], ["head.beauty"])


def test_main_figures_are_of_the_whole() -> None:
    keys = ("skull.mae_hu", "body.mae_hu", "body.ssim", "bone.hd95_mm")
    assert main_figures(keys) == ("body.mae_hu", "body.ssim", "bone.hd95_mm")
    assert title_of("body.mae_hu") == "MAE, HU (body)"
    assert title_of("bone.hd95_mm") == "Bone HD95, mm"


def test_each_subject_counts_once_in_the_mean_curve() -> None:
    small = error_curve(MaskedPair(np.array([0.0]), np.array([10.0])), (-50, 50, 100))
    large = error_curve(MaskedPair(np.zeros(9), np.full(9, 30.0)), (-50, 50, 100))
    records = [Record("s1", "a", {}, error_curve=small), Record("s2", "a", {}, error_curve=large)]
    found = mean_curve(records)
    assert found is not None
    assert found.mean_hu[0] == pytest.approx(20.0)
    assert math.isnan(found.mean_hu[1])
    assert found.voxels == (10, 0)
    assert found.sd_hu[0] == pytest.approx(10.0)
    assert mean_curve([Record("s1", "a", {})]) is None
