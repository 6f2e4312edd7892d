"""The tables of a cohort: figures of many subjects and methods, by method, stratum and fold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.definitions import figure_of
from SynthCTLib.metrics.error_curve import ErrorCurve
from SynthCTLib.metrics.statistics import (
    PairedDifference,
    Summary,
    holm,
    paired_difference,
    summarise,
)

# Asked for first, in the mask of the whole (head or body) where it is a figure of a mask.
MAIN_MASK_FIGURES = (
    "mae_hu",
    "mean_error_hu",
    "psnr_db",
    "ssim",
    "ms_ssim",
    "jaccard_bone",
    "mu_rmae_percent",
)
MAIN_REGION_FIGURES = ("bone.hd95_mm", "lines.mae_percent")
MAIN_UPTAKE_FIGURES = (
    "uptake.mae_suv",
    "uptake.mean_error_suv",
    "uptake.psnr_db",
    "uptake.ssim",
    "uptake.lesions_found",
    "uptake.false_lesions",
)
WHOLE_MASKS = ("head", "body")
_MOST_VALUES = 4  # a stratum of more distinct numbers is divided into thirds


@dataclass(frozen=True)
class Record:
    """The figures of one subject by one method, and what it belongs to.

    ``figures`` are those of ``Evaluation.flat``, or of a synthetic PET ``UPTAKE_FIGURES``.

    ``strata`` holds text by the name of the stratum; ``error_curve`` is its error by HU;
    ``bone_ml`` the volume of bone in reference and synthetic CT.
    """

    subject: str
    method: str
    figures: Mapping[str, float]
    fold: str | None = None
    strata: Mapping[str, str] = field(default_factory=dict)
    error_curve: ErrorCurve | None = None
    bone_ml: tuple[float, float] | None = None


@dataclass(frozen=True)
class SummaryRow:
    """A figure of a method over all subjects, or over those of one stratum or fold."""

    method: str
    group: str
    value: str
    figure: str
    summary: Summary


@dataclass(frozen=True)
class ComparisonRow:
    """A figure of two methods over the subjects that both have; p-values by Holm beside."""

    figure: str
    first: str
    second: str
    difference: PairedDifference
    t_p_holm: float
    w_p_holm: float


@dataclass(frozen=True)
class CohortTables:
    """Everything that is told of a cohort. ``main`` are the figures that are tested and drawn.

    ``summaries`` have the group "" over all subjects, "fold" or the name of a stratum.
    """

    records: tuple[Record, ...]
    figures: tuple[str, ...]
    main: tuple[str, ...]
    summaries: tuple[SummaryRow, ...]
    comparisons: tuple[ComparisonRow, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order they came."""
        return tuple(dict.fromkeys(record.method for record in self.records))

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects, in the order they came."""
        return tuple(dict.fromkeys(record.subject for record in self.records))

    def of(self, method: str) -> tuple[Record, ...]:
        """The records of a method."""
        return tuple(r for r in self.records if r.method == method)

    def summary(self, method: str, figure: str, group: str = "", value: str = "") -> Summary:
        """One summary. Raises KeyError when there is none."""
        for row in self.summaries:
            if (row.method, row.figure, row.group, row.value) == (method, figure, group, value):
                return row.summary
        raise KeyError((method, figure, group, value))


def tables_of(records: Sequence[Record], main: Sequence[str] = ()) -> CohortTables:
    """Summaries by method, stratum and fold, and every pair of methods compared.

    ``main`` are the keys of the figures to test; empty takes ``MAIN_MASK_FIGURES`` in the mask of
    the whole, ``MAIN_REGION_FIGURES`` and ``MAIN_UPTAKE_FIGURES``. Holm's correction counts every
    test of the table: each pair of methods in each main figure. Raises InputError when there is no
    record, a subject appears twice with one method, or a main figure is not there.
    """
    if not records:
        raise InputError("There is no subject to make a table of: see why they failed.")
    seen = set()
    for record in records:
        if (record.subject, record.method) in seen:
            raise InputError(
                f"The subject {record.subject} appears twice with the method {record.method}: "
                "name each pair of subject and method once."
            )
        seen.add((record.subject, record.method))
    keys = tuple(dict.fromkeys(key for record in records for key in record.figures))
    chosen = tuple(main) or main_figures(keys)
    for key in chosen:
        if key not in keys:
            raise InputError(
                f"There is no figure {key!r} in this cohort: choose from {', '.join(keys)}."
            )
    summaries = tuple(_summaries(records, keys))
    return CohortTables(tuple(records), keys, chosen, summaries, _comparisons(records, chosen))


def main_figures(keys: Sequence[str]) -> tuple[str, ...]:
    """The main figures among those that are there."""
    wanted = [f"{mask}.{name}" for mask in WHOLE_MASKS for name in MAIN_MASK_FIGURES]
    return tuple(
        key for key in (*wanted, *MAIN_REGION_FIGURES, *MAIN_UPTAKE_FIGURES) if key in keys
    )


def _summaries(records: Sequence[Record], keys: Sequence[str]) -> Iterator[SummaryRow]:
    for method in dict.fromkeys(r.method for r in records):
        own = [r for r in records if r.method == method]
        yield from _group(method, "", "", own, keys)
        for fold in _ordered(r.fold for r in own if r.fold is not None):
            yield from _group(method, "fold", fold, [r for r in own if r.fold == fold], keys)
        for name in dict.fromkeys(name for r in records for name in r.strata):
            group_of = _grouping([r.strata.get(name, "") for r in records])
            groups = [group_of(r.strata.get(name, "")) for r in own]
            for value in _ordered(group for group in groups if group):
                members = [r for r, group in zip(own, groups, strict=True) if group == value]
                yield from _group(method, name, value, members, keys)


def _group(
    method: str, group: str, value: str, records: Sequence[Record], keys: Sequence[str]
) -> Iterator[SummaryRow]:
    for key in keys:
        values = [record.figures.get(key, math.nan) for record in records]
        yield SummaryRow(method, group, value, key, summarise(values))


def _comparisons(records: Sequence[Record], keys: Sequence[str]) -> tuple[ComparisonRow, ...]:
    by_method: dict[str, dict[str, Record]] = {}
    for record in records:
        by_method.setdefault(record.method, {})[record.subject] = record
    rows = []
    for first, second in combinations(by_method, 2):
        common = [s for s in by_method[first] if s in by_method[second]]
        for key in keys:
            values = [
                [by_method[m][s].figures.get(key, math.nan) for s in common]
                for m in (first, second)
            ]
            rows.append((key, first, second, paired_difference(*values)))
    t = holm([row[3].t_p for row in rows])
    w = holm([row[3].w_p for row in rows])
    return tuple(ComparisonRow(*row, t[i], w[i]) for i, row in enumerate(rows))


def _grouping(values: Sequence[str]) -> Callable[[str], str]:
    """From a value to its group: itself, or the third of the numbers that it lies in."""
    numbers = [_number(v) for v in dict.fromkeys(values) if v]
    known = [n for n in numbers if n is not None]
    if len(known) < len(numbers) or len(set(known)) <= _MOST_VALUES:
        return lambda value: value
    every = [n for n in map(_number, values) if n is not None]
    low, high = (float(q) for q in np.quantile(every, (1 / 3, 2 / 3)))

    def third(value: str) -> str:
        number = _number(value)
        if number is None:
            return ""
        if number <= low:
            return f"up to {low:.4g}"
        return f"{low:.4g} to {high:.4g}" if number <= high else f"above {high:.4g}"

    return third


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ordered(values: Iterator[str]) -> list[str]:
    """Each once, numbers by size, text as it came."""
    once = list(dict.fromkeys(values))
    if all(_number(v) is not None for v in once):
        return sorted(once, key=float)
    return once


def mean_curve(records: Sequence[Record]) -> ErrorCurve | None:
    """The error by HU of several subjects: the mean of their bins, each subject counting once.

    ``sd_hu`` is the spread of the subjects' mean errors. None where no record has a curve.
    """
    curves = [record.error_curve for record in records if record.error_curve is not None]
    if not curves:
        return None
    voxels = np.array([curve.voxels for curve in curves])
    mean, mae = (
        np.ma.masked_invalid([getattr(c, name) for c in curves]) for name in ("mean_hu", "mae_hu")
    )

    def filled(part: np.ma.MaskedArray) -> tuple[float, ...]:
        return tuple(float(v) for v in np.ma.filled(part, np.nan))

    return ErrorCurve(
        edges_hu=curves[0].edges_hu,
        voxels=tuple(int(n) for n in voxels.sum(axis=0)),
        mean_hu=filled(mean.mean(axis=0)),
        mae_hu=filled(mae.mean(axis=0)),
        sd_hu=filled(mean.std(axis=0)),
        voxels_outside=int(sum(curve.voxels_outside for curve in curves)),
    )


def title_of(key: str) -> str:
    """A figure's title with its mask and unit, for a heading."""
    figure = figure_of(key)
    whole = key.partition(".")[0] in ("bone", "classes", "lines", "uptake")
    mask = "" if whole else key.rpartition(".")[0]
    unit = f", {figure.unit}" if figure.unit else ""
    return f"{figure.title}{unit}" + (f" ({mask.replace('_', ' ')})" if mask else "")
