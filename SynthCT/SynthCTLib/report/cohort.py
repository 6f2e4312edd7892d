"""The page of a cohort: tables, charts, the worst cases and what failed, in one file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from SynthCTLib.metrics.cohort import CohortTables, Record, mean_curve, title_of
from SynthCTLib.metrics.definitions import UPTAKE_FIGURES, Better, figure_of
from SynthCTLib.metrics.statistics import Summary
from SynthCTLib.report import cohort_figures
from SynthCTLib.report.figures import chart_png
from SynthCTLib.report.gallery import Picture
from SynthCTLib.report.literature import CITATIONS
from SynthCTLib.report.page import page

_WORST = 3  # cases shown of each method


@dataclass(frozen=True, kw_only=True)
class CohortContent:
    """What the page shows.

    ``failures`` are subject, method and reason; ``reports`` the address of the report of a subject
    and method, relative to the page; ``pictures`` a PNG of it, where there is one.
    """

    title: str
    tables: CohortTables
    failures: Sequence[tuple[str, str, str]] = ()
    reports: Mapping[tuple[str, str], str] = field(default_factory=dict)
    pictures: Callable[[str, str], bytes | None] = lambda subject, method: None
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())


@dataclass(frozen=True)
class WorstCase:
    """A subject whose first main figure is among the worst of its method."""

    subject: str
    method: str
    value: str
    report: str | None
    png: bytes | None


def cohort_page(content: CohortContent) -> str:
    """The page as HTML: it holds its pictures within itself and loads nothing."""
    tables = content.tables
    lead = tables.main[0] if tables.main else None
    return page(
        "cohort.html.j2",
        {},
        content=content,
        tables=tables,
        summary=_summary_table(tables),
        groups=list(_group_tables(tables)),
        comparisons=_comparison_table(tables),
        charts=list(_charts(tables)),
        worst=[] if lead is None else list(_worst(content, lead)),
        lead=None if lead is None else title_of(lead),
        of_pet=any(key in UPTAKE_FIGURES for key in tables.figures),
        methods_paragraph=_methods(content),
        citations=CITATIONS,
    )


def number(value: float, like: str) -> str:
    """A value of a figure with the digits that suit its unit; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    unit = figure_of(like).unit
    form = {
        "HU": ".1f", "HU²": ".0f", "dB": ".1f", "%": ".1f", "mm": ".2f", "per scan": ".1f",
    }.get(unit, ".3f")  # fmt: skip
    return format(value, form).replace("-", "−")


def _mean_sd(summary: Summary, key: str) -> str:
    spread = f" ± {number(summary.sd, key)}" if math.isfinite(summary.sd) else ""
    return number(summary.mean, key) + spread


def _summary_table(tables: CohortTables) -> list[dict[str, Any]]:
    rows = []
    for key in tables.main:
        for place, method in enumerate(tables.methods):
            s = tables.summary(method, key)
            rows.append(
                {
                    "figure": title_of(key) if place == 0 else "",
                    "better": {Better.NEITHER: ""}.get(
                        figure_of(key).better, f"better: {figure_of(key).better}"
                    ),
                    "method": method,
                    "cells": [
                        str(s.n),
                        _mean_sd(s, key),
                        f"{number(s.ci_low, key)} to {number(s.ci_high, key)}",
                        number(s.median, key),
                        f"{number(s.least, key)} to {number(s.greatest, key)}",
                    ],
                    "missing": s.missing,
                }
            )
    return rows


def _group_tables(tables: CohortTables) -> Iterator[dict[str, Any]]:
    """A table for the folds (as paper 1's table 2) and for each stratum: mean ± SD."""
    for group in dict.fromkeys(row.group for row in tables.summaries if row.group):
        rows = []
        for method in tables.methods:
            values = dict.fromkeys(
                r.value for r in tables.summaries if (r.group, r.method) == (group, method)
            )
            for value in values:
                found = [tables.summary(method, key, group, value) for key in tables.main]
                size = max(s.n + s.missing for s in found)
                cells = [_mean_sd(s, key) for s, key in zip(found, tables.main, strict=True)]
                rows.append((method, value, size, cells))
            found = [tables.summary(method, key) for key in tables.main]
            cells = [_mean_sd(s, key) for s, key in zip(found, tables.main, strict=True)]
            rows.append((method, "all", max(s.n + s.missing for s in found), cells))
        yield {"name": group, "figures": [title_of(k) for k in tables.main], "rows": rows}


def _comparison_table(tables: CohortTables) -> list[dict[str, Any]]:
    rows = []
    for row in tables.comparisons:
        d, key = row.difference, row.figure
        rows.append(
            {
                "figure": title_of(key),
                "pair": f"{row.second} − {row.first}",
                "cells": [
                    str(d.n),
                    _signed(d.mean, key) + (f" ± {number(d.sd, key)}" if d.n > 1 else ""),
                    f"{_signed(d.ci_low, key)} to {_signed(d.ci_high, key)}",
                    f"{_signed(d.limits_low, key)} to {_signed(d.limits_high, key)}",
                    _p(row.difference.t_p),
                    _p(row.t_p_holm),
                    _p(row.difference.w_p),
                    _p(row.w_p_holm),
                ],
            }
        )
    return rows


def _signed(value: float, key: str) -> str:
    text = number(value, key)
    return text if text[0] in "−–" else f"+{text}"


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _charts(tables: CohortTables) -> Iterator[Picture]:
    for key in tables.main:
        values = [(m, [r.figures.get(key, math.nan) for r in tables.of(m)]) for m in tables.methods]
        if any(math.isfinite(v) for _, own in values for v in own):
            title = title_of(key)
            yield _picture(
                f"box_{key}",
                partial(cohort_figures.box_plots, values, title),
                f"Box plots of {title} by method.",
                f"{title}: box from the first to the third quartile, line at the median, whiskers "
                "to the last subject within 1.5 box lengths; each dot is a subject.",
            )
    curves = [(m, c) for m in tables.methods if (c := mean_curve(tables.of(m))) is not None]
    if curves:
        yield _picture(
            "error_by_hu",
            partial(cohort_figures.error_curves, curves),
            "Mean error over the HU of the reference CT, by method.",
            "The error by the true HU, the mean over subjects: below zero on the right, bone is "
            "too soft; above zero on the left, air is filled.",
        )
    for method in tables.methods:
        bone = [r.bone_ml for r in tables.of(method) if r.bone_ml is not None]
        if len(bone) > 1:
            first, second = [b[0] for b in bone], [b[1] for b in bone]
            yield _picture(
                f"bone_agreement_{method}",
                partial(cohort_figures.bland_altman, first, second, "bone of 300 HU or more, ml"),
                f"Bland-Altman plot of the volume of bone, {method} against the reference.",
                f"Volume of bone, {method} minus reference, over the mean of both: the solid line "
                "is the bias, 95 % of subjects should lie between the dashed lines.",
            )
    for row in tables.comparisons:
        key = row.figure
        if key != tables.main[0] or row.difference.n < 2:
            continue
        own = [{r.subject: r for r in tables.of(m)} for m in (row.first, row.second)]
        common = [s for s in own[0] if s in own[1]]
        a, b = ([side[s].figures.get(key, math.nan) for s in common] for side in own)
        yield _picture(
            f"agreement_{row.first}_{row.second}",
            partial(cohort_figures.bland_altman, a, b, title_of(key)),
            f"Bland-Altman plot of {title_of(key)}, {row.second} against {row.first}.",
            f"{title_of(key)}: {row.second} minus {row.first}, over the mean of both.",
        )


def _picture(name: str, draw: Callable[..., Figure], alt: str, caption: str) -> Picture:
    return Picture(name, chart_png(draw(dark=False)), alt, caption, chart_png(draw(dark=True)))


def _worst(content: CohortContent, key: str) -> Iterator[WorstCase]:
    better = figure_of(key).better

    def badness(record: Record) -> float:
        value = record.figures[key]
        return {Better.MORE: -value, Better.ZERO: abs(value)}.get(better, value)

    for method in content.tables.methods:
        own = [r for r in content.tables.of(method) if math.isfinite(r.figures.get(key, math.nan))]
        for record in sorted(own, key=badness, reverse=True)[:_WORST]:
            place = (record.subject, method)
            yield WorstCase(
                record.subject,
                method,
                number(record.figures[key], key),
                content.reports.get(place),
                content.pictures(*place),
            )


def _methods(content: CohortContent) -> str:
    tables = content.tables
    by = f"SynthCT {content.versions.get('SynthCT', '')}".strip()
    text = (
        f"{len(tables.subjects)} subjects were evaluated with {by} ("
        f"{', '.join(f'{m}: {len(tables.of(m))}' for m in tables.methods)}). Values are mean ± SD "
        "(n − 1) over subjects; intervals are 95 % bootstrap intervals of the mean (bias-corrected "
        "and accelerated, 4999 resamples)."
    )
    if tables.comparisons:
        text += (
            " Methods were compared over the subjects they share by the paired t-test and "
            "Wilcoxon's signed-rank test, two-sided, each corrected for "
            f"{len(tables.comparisons)} tests by Holm's method; limits of agreement are mean ± "
            "1.96 SD of the differences (Bland and Altman 1986)."
        )
    if content.failures:
        text += f" {len(content.failures)} failed and are in no figure."
    return text
