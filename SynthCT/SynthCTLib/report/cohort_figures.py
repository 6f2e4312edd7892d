"""The charts of a cohort: box plots, Bland and Altman's plots, and the error by HU of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from SynthCTLib.metrics.error_curve import ErrorCurve
from SynthCTLib.report.figures import chart, finish

_LIMITS = 1.96
_LEAST_VOXELS = 20

# Okabe and Ito's palette (2008), for dark pages and, darker, for light ones.
_DARK = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00")
_LIGHT = ("#0072b2", "#b34700", "#00664a", "#7a6f00", "#8f3c6b", "#444444")


def box_plots(groups: Sequence[tuple[str, Sequence[float]]], title: str, *, dark: bool) -> Figure:
    """A box (quartiles, median, whiskers of 1.5 box lengths) and every subject, for each group.

    As paper 5's figure 1. Values that are not finite are left out.
    """
    figure, axes, (ink, muted, _) = chart(dark)
    kept = [[v for v in values if math.isfinite(v)] for _, values in groups]
    line = {"color": ink, "lw": 1.3}
    axes.boxplot(
        kept, widths=0.5, showfliers=False, boxprops=line, whiskerprops=line, capprops=line,
        medianprops={**line, "lw": 2.2},
    )  # fmt: skip
    for place, values in enumerate(kept, 1):
        # A fixed spread to the sides, so that equal values can be told apart and pages agree.
        aside = place + 0.16 * np.sin(np.arange(len(values)) * 2.4)
        colour = _colours(dark)[(place - 1) % len(_DARK)]
        axes.plot(aside, values, "o", ms=4.5, color=colour, alpha=0.75, mew=0)
    names = [f"{name}\n(n = {len(v)})" for (name, _), v in zip(groups, kept, strict=True)]
    axes.set_xticks(range(1, len(groups) + 1), names)
    finish(axes, "", title, ink, muted)
    return figure


def bland_altman(
    first: Sequence[float], second: Sequence[float], quantity: str, *, dark: bool
) -> Figure:
    """Difference (second minus first) over the mean of both, with mean and limits of agreement.

    Bland and Altman, Lancet 327 (1986) 307.
    """
    figure, axes, (ink, muted, colours) = chart(dark)
    a, b = np.asarray(first, float), np.asarray(second, float)
    kept = np.isfinite(a) & np.isfinite(b)
    mean, difference = (a[kept] + b[kept]) / 2, b[kept] - a[kept]
    axes.axhline(0.0, color=muted, lw=1.0)
    axes.plot(mean, difference, "o", ms=5.5, color=colours[0], alpha=0.8, mew=0)
    if difference.size:
        centre = float(difference.mean())
        spread = float(difference.std(ddof=1)) if difference.size > 1 else 0.0
        for level, style, words in (
            (centre, "-", "mean"),
            (centre + _LIMITS * spread, "--", "+ 1.96 SD"),
            (centre - _LIMITS * spread, "--", "− 1.96 SD"),
        ):
            axes.axhline(level, color=colours[1], lw=1.4, ls=style)
            text = f"{words} {level:.3g}".replace("-", "−")
            axes.annotate(
                text, (1.0, level), xycoords=("axes fraction", "data"), xytext=(-4, 3),
                textcoords="offset points", ha="right", color=ink, fontsize=10,
            )  # fmt: skip
    axes.margins(0.08, 0.15)
    finish(axes, f"mean of both, {quantity}", "difference", ink, muted)
    return figure


def error_curves(curves: Sequence[tuple[str, ErrorCurve]], *, dark: bool) -> Figure:
    """Mean error over the HU of the reference, a line a method."""
    figure, axes, (ink, muted, _) = chart(dark)
    axes.axhline(0.0, color=muted, lw=1.0)
    colours = _colours(dark)
    for place, (name, curve) in enumerate(curves):
        edges = np.asarray(curve.edges_hu)
        enough = np.asarray(curve.voxels) >= _LEAST_VOXELS
        mean = np.where(enough, curve.mean_hu, np.nan)
        axes.plot((edges[1:] + edges[:-1]) / 2, mean, lw=1.8, label=name,
                  color=colours[place % len(colours)])  # fmt: skip
    axes.set_xlim(curves[0][1].edges_hu[0], curves[0][1].edges_hu[-1])
    finish(axes, "HU of the reference CT", "mean error, HU", ink, muted)
    axes.legend(loc="best", fontsize=11, frameon=False, labelcolor=ink)
    return figure


def _colours(dark: bool) -> tuple[str, ...]:
    return _DARK if dark else _LIGHT
