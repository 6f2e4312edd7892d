"""The figures of the report: each function takes volumes and gives a matplotlib ``Figure``.

Object-oriented matplotlib only (no ``pyplot``, no ``rcParams`` written), so that reports can be
made in several threads. Images stand on black, as on a light box, whatever the page around them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.patheffects import withStroke
from PIL import Image

from SynthCTLib.imaging.masks import BONE_HU
from SynthCTLib.metrics.error_curve import ErrorCurve
from SynthCTLib.metrics.histogram import HuHistogram
from SynthCTLib.metrics.overlap import DiceCurve
from SynthCTLib.report.planes import Plane, View
from SynthCTLib.volume import Volume

DIFFERENCE_LIMIT_HU = 500.0  # the same in every report, so that patients can be compared
PET_LIMIT_PERCENT = 15.0
DISCLAIMER = "SynthCT: research use only, not for diagnosis"

# Blue and orange of Okabe and Ito's palette (2008): told apart in every form of colour blindness.
SYNTHETIC_COLOUR = "#56b4e9"
REFERENCE_COLOUR = "#e69f00"

_BLACK = "#08090b"
_WHITE = "#f4f6f8"
_MUTED = "#a9b1ba"
_LETTER = "#ffe08a"
_CIRCLE = "#00e5a8"
_OUTSIDE = "#4a4f55"  # where nothing was scanned or nothing is compared: flat grey
_KEY_COLOURS = (SYNTHETIC_COLOUR, REFERENCE_COLOUR, _CIRCLE)

# A page column is about 1100 pixels wide; 100 dots an inch makes points and pixels easy to relate.
_DPI = 100
_WIDTH_PX = 1200.0
_HIGHEST_PX = 470.0
_GAP_PX = 8.0
_HEAD_PX = 58.0
_FOOT_PX = 24.0
_BAR_PX = 104.0
_CLOSE_UP_MM = 110.0  # shows which part of a head it is, and still the bone in detail


@dataclass(frozen=True)
class Look:
    """How values become grey or colour: title, colour map, window and unit of the colour bar."""

    title: str
    colours: str
    low: float
    high: float
    unit: str

    @staticmethod
    def window(title: str, width_hu: float, level_hu: float) -> Look:
        """A grey CT window, stated in the title as on a CT console."""
        low, high = level_hu - width_hu / 2, level_hu + width_hu / 2
        stated = f"{title} (window W {width_hu:.0f} L {level_hu:.0f} HU)"
        return Look(stated, "gray", low, high, "HU")

    @staticmethod
    def bone(title: str) -> Look:
        """Bone window, wide enough to tell sinuses from tissue and marrow from cortex."""
        return Look.window(title + ", bone", 2000, 500)

    @staticmethod
    def soft_tissue(title: str) -> Look:
        """Soft-tissue window, where fat, muscle and fluid part."""
        return Look.window(title + ", soft tissue", 400, 40)

    @staticmethod
    def mr(title: str, mr: Volume, view: View) -> Look:
        """Grey from the 1st to the 99th percentile of the slices shown; MR has no unit."""
        shown = np.concatenate([view.slice_of(mr.array, plane).ravel() for plane in Plane])
        shown = shown[np.isfinite(shown)]
        low, high = (float(v) for v in np.percentile(shown, (1.0, 99.0))) if shown.size else (0, 1)
        return Look(title, "gray", low, high if high > low else low + 1.0, "a.u.")

    @staticmethod
    def difference() -> Look:
        """Red where the synthetic CT is too dense, blue where not dense enough."""
        limit = DIFFERENCE_LIMIT_HU
        return Look("Difference, synthetic minus reference CT", "RdBu_r", -limit, limit, "HU")

    @staticmethod
    def pet_difference() -> Look:
        """Red where a PET comes out too high, blue where too low."""
        limit = PET_LIMIT_PERCENT
        return Look("Effect on a PET, relative to the reference CT", "RdBu_r", -limit, limit, "%")

    @staticmethod
    def pet_uncertainty() -> Look:
        """What one standard deviation of the model makes of a PET."""
        title = "Uncertainty of a PET, from that of the model"
        return Look(title, "inferno", 0.0, PET_LIMIT_PERCENT, "% (1 SD)")

    @staticmethod
    def mu() -> Look:
        """From nothing to just above cortical bone (0.172 /cm, NIST XCOM)."""
        return Look("Attenuation map at 511 keV (µ-map)", "gray", 0.0, 0.18, "µ, 1/cm")

    @staticmethod
    def uncertainty() -> Look:
        """Standard deviation that the model itself states."""
        return Look("Uncertainty stated by the model", "inferno", 0.0, 300.0, "HU (1 SD)")


@dataclass(frozen=True)
class Outline:
    """A contour drawn over a row of slices, at a level of the volume."""

    volume: Volume
    level: float
    colour: str
    name: str
    style: str = "solid"


@dataclass(frozen=True)
class Shown:
    """Where a row shows its volume: flat grey elsewhere, explained by ``elsewhere``.

    ``inside`` has the shape of the volume's array.
    """

    inside: npt.NDArray[np.bool_]
    elsewhere: str


def planes_row(
    view: View,
    volume: Volume,
    look: Look,
    *,
    shown: Shown | None = None,
    outlines: Sequence[Outline] = (),
    uncovered: npt.NDArray[np.bool_] | None = None,
) -> Figure:
    """Axial, coronal and sagittal slice of a volume on the view's grid, at one scale in mm.

    ``uncovered``, of the shape of the volume's array, is hatched.
    """
    figure, axes = _three_planes(view, look.title)
    for panel, plane in zip(axes, Plane, strict=True):
        values = view.slice_of(volume.array, plane)
        kept = None if shown is None else view.slice_of(shown.inside, plane)
        _show(panel, values, kept, view.extent_mm(plane), look)
        for outline in outlines:
            contoured = view.slice_of(outline.volume.array, plane)
            _contour(panel, contoured, view.extent_mm(plane), outline)
        if uncovered is not None:
            _hatch(panel, view.slice_of(uncovered, plane), view.extent_mm(plane))
        _letter(panel, plane)
    _ruler(axes[0], view.extent_mm(Plane.AXIAL)[0])
    _colour_bar(figure, axes[-1], look)
    keys: list[Line2D | Patch] = [
        Line2D([], [], color=o.colour, lw=1.8, ls=o.style, label=o.name) for o in outlines
    ]
    if uncovered is not None:
        keys.append(
            Patch(facecolor="none", edgecolor=REFERENCE_COLOUR, hatch="////", label="not covered")
        )
    if shown is not None:
        keys.append(Patch(facecolor=_OUTSIDE, edgecolor=_OUTSIDE, label=shown.elsewhere))
    _legend(figure, keys)
    return figure


def close_up(
    view: View, columns: Sequence[tuple[str, Volume, Look]], title: str, radius_mm: float
) -> Figure:
    """The view's point in several images, axial above and sagittal below, with a circle about it.

    The colour bar is that of the last image.
    """
    near = view.around(view.point, _CLOSE_UP_MM)
    size = min((_WIDTH_PX - _BAR_PX) / len(columns) - _GAP_PX, 330.0)
    width = len(columns) * (size + _GAP_PX) - _GAP_PX + _BAR_PX
    figure = _black_figure(width, _HEAD_PX + 2 * size + _GAP_PX + _FOOT_PX, title)
    panel = None
    for column, (name, volume, look) in enumerate(columns):
        for line, plane in enumerate((Plane.AXIAL, Plane.SAGITTAL)):
            top = _HEAD_PX + line * (size + _GAP_PX)
            panel = _panel(figure, column * (size + _GAP_PX), top, size, size)
            _show(panel, near.slice_of(volume.array, plane), None, near.extent_mm(plane), look)
            panel.set_aspect("equal", adjustable="datalim")
            circle = Circle(_place_mm(near, plane), radius_mm, fill=False, ec=_CIRCLE, lw=1.6)
            panel.add_patch(circle)
            _letter(panel, plane)
            if line == 0:
                _write(panel, 0.5, 1.015, name, colour=_MUTED, size=10.5, ha="center")
            if column == 0:
                where = f"{plane.title}, {near.where(plane)}"
                _write(panel, 0.03, 0.87, where, colour=_WHITE, size=9, va="top")
    assert panel is not None  # at least one column is given
    _colour_bar(figure, panel, columns[-1][2])
    return figure


def hu_curves(curves: Sequence[tuple[str, HuHistogram]], *, dark: bool) -> Figure:
    """Share of voxels over HU on a logarithmic scale, one line for each named histogram.

    ``dark`` chooses colours for a dark page.
    """
    figure, axes, (ink, muted, colours) = chart(dark)
    for (name, histogram), colour, style in zip(curves, colours, ("-", (0, (5, 2))), strict=False):
        voxels = histogram.counts.sum() + histogram.below + histogram.above
        share = 100.0 * histogram.counts / max(1, voxels)
        axes.stairs(
            share, histogram.edges_hu, color=colour, lw=1.8, ls=style, label=name, baseline=None
        )
    edges = curves[0][1].edges_hu
    axes.set_yscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(1e-3, 100.0)
    axes.axvline(BONE_HU, color=muted, lw=1.0, ls=":")
    for at, word in ((-990, "air"), (-90, "fat"), (20, "soft tissue"), (310, "bone, from 300")):
        axes.text(at, 1.02, word, transform=axes.get_xaxis_transform(), color=ink, fontsize=10,
                  ha="right" if word == "fat" else "left", va="bottom")  # fmt: skip
    axes.set_yticks([1e-3, 1e-2, 1e-1, 1, 10, 100], ["0.001", "0.01", "0.1", "1", "10", "100"])
    finish(axes, "HU", "share of voxels, %", ink, muted)
    axes.legend(loc="upper right", fontsize=11, frameon=False, labelcolor=ink)
    return figure


def error_by_hu(curve: ErrorCurve, *, dark: bool) -> Figure:
    """Mean error (line), its standard deviation (band) and mean absolute error over reference HU.

    Bins of fewer than 20 voxels are left out.
    """
    figure, axes, (ink, muted, colours) = chart(dark)
    edges = np.asarray(curve.edges_hu)
    centres = (edges[1:] + edges[:-1]) / 2
    kept = np.asarray(curve.voxels) >= _LEAST_VOXELS
    mean, mae, spread = (
        np.where(kept, v, np.nan) for v in (curve.mean_hu, curve.mae_hu, curve.sd_hu)
    )
    axes.axhline(0.0, color=muted, lw=1.0)
    axes.axvline(BONE_HU, color=muted, lw=1.0, ls=":")
    axes.fill_between(centres, mean - spread, mean + spread, color=colours[0], alpha=0.2, lw=0,
                      label="± 1 SD")  # fmt: skip
    axes.plot(centres, mean, color=colours[0], lw=1.8, label="mean error")
    axes.plot(centres, mae, color=colours[1], lw=1.8, ls=(0, (5, 2)), label="mean absolute error")
    axes.set_xlim(edges[0], edges[-1])
    if kept.any():
        low, high = np.nanmin(mean - spread), np.nanmax(np.maximum(mean + spread, mae))
        axes.set_ylim(max(low, -1500.0) - 30, min(high, 1500.0) + 30)
    finish(axes, "HU of the reference CT", "error, HU", ink, muted)
    axes.legend(loc="best", fontsize=11, frameon=False, labelcolor=ink, ncols=3)
    return figure


def dice_over_threshold(curve: DiceCurve, *, dark: bool) -> Figure:
    """Dice coefficient of all that reaches a threshold, from blurred to dense bone."""
    figure, axes, (ink, muted, colours) = chart(dark)
    axes.plot(curve.thresholds_hu, curve.dice, color=colours[0], lw=1.8, marker="o", ms=3.5)
    axes.axvline(BONE_HU, color=muted, lw=1.0, ls=":")
    axes.text(BONE_HU + 8, 1.02, "bone, 300", transform=axes.get_xaxis_transform(), color=ink,
              fontsize=10, va="bottom")  # fmt: skip
    axes.set_xlim(curve.thresholds_hu[0], curve.thresholds_hu[-1])
    axes.set_ylim(0.0, 1.0)
    finish(axes, "threshold, HU", "Dice coefficient", ink, muted)
    return figure


_LEAST_VOXELS = 20  # the error of fewer says more of chance than of the tissue


def chart(dark: bool) -> tuple[Figure, Axes, tuple[str, str, tuple[str, str]]]:
    """An empty chart of lines, and its ink, muted ink and two colours, for a dark or light page."""
    if dark:
        ink, paper, muted, colours = _WHITE, "#15181c", "#59626c", ("#56b4e9", "#e69f00")
    else:
        ink, paper, muted, colours = "#1a1d21", "#ffffff", "#c4cad1", ("#0072b2", "#b34700")
    figure = Figure(figsize=(11.0, 3.9), dpi=_DPI, facecolor=paper)
    axes: Axes = figure.add_axes((0.075, 0.15, 0.91, 0.72), facecolor=paper)
    return figure, axes, (ink, muted, colours)


def finish(axes: Axes, across: str, up: str, ink: str, muted: str) -> None:
    """Titles, ticks, grid and frame of a chart."""
    axes.set_xlabel(across, color=ink, fontsize=11)
    axes.set_ylabel(up, color=ink, fontsize=11)
    axes.tick_params(colors=ink, labelsize=10)
    axes.grid(color=muted, lw=0.5, alpha=0.5)
    for spine in axes.spines.values():
        spine.set_color(muted)


def chart_png(figure: Figure) -> bytes:
    """A figure of lines as PNG in full colour."""
    return _encoded(Image.fromarray(_pixels(figure)))


def film_png(figure: Figure) -> bytes:
    """A figure of images as PNG with a palette of 256 colours, a few of 255 steps off at most.

    A third of the size of full colour. The palette is chosen from the square root of how often a
    colour occurs: by plain frequency the black around a head would leave none for the colour bar.
    """
    pixels = _pixels(figure)
    colours, counts = np.unique(pixels @ np.array([1, 256, 65536], np.uint32), return_counts=True)
    weighted = np.repeat(colours, np.sqrt(counts).astype(int))
    sample = np.stack([weighted % 256, weighted // 256 % 256, weighted // 65536], axis=-1)
    keys = [int(c[i : i + 2], 16) for c in _KEY_COLOURS for i in (1, 3, 5)]
    palette = Image.fromarray(sample[np.newaxis].astype(np.uint8)).quantize(256 - len(_KEY_COLOURS))
    chosen = (palette.getpalette() or [])[: 3 * (256 - len(_KEY_COLOURS))]
    # The line of a legend is a few pixels, and must keep the colour that it explains.
    palette.putpalette([*chosen, *[0] * (768 - len(chosen) - len(keys)), *keys])
    return _encoded(Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE))


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", dpi=(_DPI, _DPI))
    return buffer.getvalue()


def _black_figure(width_px: float, height_px: float, title: str) -> Figure:
    figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI, facecolor=_BLACK)
    figure.text(12 / width_px, 1 - 9 / height_px, title, color=_WHITE, fontsize=12, va="top",
                fontweight="bold", parse_math=False)  # fmt: skip
    figure.text(1 - 10 / width_px, 6 / height_px, DISCLAIMER, color=_MUTED, fontsize=8, ha="right")
    return figure


def _panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in pixels from the top left corner."""
    full_w, full_h = figure.get_size_inches() * _DPI
    axes: Axes = figure.add_axes(
        (left / full_w, 1 - (top + height) / full_h, width / full_w, height / full_h)
    )
    axes.set_facecolor(_OUTSIDE)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _three_planes(view: View, title: str) -> tuple[Figure, list[Axes]]:
    sizes = [view.extent_mm(plane) for plane in Plane]
    room = _WIDTH_PX - _BAR_PX - 2 * _GAP_PX
    scale = min(room / sum(w for w, _ in sizes), _HIGHEST_PX / max(h for _, h in sizes))
    width = scale * sum(w for w, _ in sizes) + _BAR_PX + 2 * _GAP_PX
    tallest = scale * max(h for _, h in sizes)
    figure = _black_figure(width, _HEAD_PX + tallest + _FOOT_PX, title)
    left, axes = 0.0, []
    for plane, (w, h) in zip(Plane, sizes, strict=True):
        panel = _panel(figure, left, _HEAD_PX + (tallest - scale * h) / 2, scale * w, scale * h)
        where = f"{plane.title}, {view.where(plane)}"
        figure.text(
            (left + scale * w / 2) / width, 1 - (_HEAD_PX - 6) / (_HEAD_PX + tallest + _FOOT_PX),
            where, color=_MUTED, fontsize=10.5, ha="center", va="bottom",
        )  # fmt: skip
        axes.append(panel)
        left += scale * w + _GAP_PX
    return figure, axes


def _box(extent: tuple[float, float]) -> tuple[float, float, float, float]:
    """Image extent in mm with the first row on top."""
    return (0.0, extent[0], extent[1], 0.0)


def _show(
    panel: Axes,
    values: npt.NDArray[np.generic],
    kept: npt.NDArray[np.bool_] | None,
    extent: tuple[float, float],
    look: Look,
) -> None:
    hidden = ~np.isfinite(values)
    if kept is not None:
        hidden |= ~kept
    panel.imshow(
        np.ma.masked_array(values, hidden),
        cmap=look.colours,
        vmin=look.low,
        vmax=look.high,
        extent=_box(extent),
        aspect="auto",
        interpolation="nearest" if hidden.any() else "antialiased",
    )


def _contour(
    panel: Axes, values: npt.NDArray[np.generic], extent: tuple[float, float], outline: Outline
) -> None:
    low, high = float(values.min()), float(values.max())
    if not low < outline.level <= high:
        return  # the level does not occur in this slice; matplotlib would warn
    panel.contour(
        *_centres(values, extent), values, levels=[outline.level], colors=[outline.colour],
        linewidths=[1.1], linestyles=[outline.style],
    )  # fmt: skip


def _hatch(panel: Axes, where: npt.NDArray[np.bool_], extent: tuple[float, float]) -> None:
    if not where.any():
        return
    filled = panel.contourf(
        *_centres(where, extent), where.astype(np.float32),
        levels=[0.5, 1.5], colors="none", hatches=["////"],
    )  # fmt: skip
    filled.set_edgecolor(REFERENCE_COLOUR)
    filled.set_linewidth(0.0)


def _centres(
    values: npt.NDArray[np.generic], extent: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Voxel centres in mm along the columns and the rows."""
    rows, columns = values.shape
    across = (np.arange(columns) + 0.5) * extent[0] / columns
    down = (np.arange(rows) + 0.5) * extent[1] / rows
    return across, down


def _place_mm(view: View, plane: Plane) -> tuple[float, float]:
    """Where the view's point lies in a slice, mm from its left and top."""
    x, y, z = (
        (at - begin + 0.5) * step
        for at, (begin, _), step in zip(view.point, view.box, view.spacing_mm, strict=True)
    )
    z = view.extent_mm(Plane.CORONAL)[1] - z
    return {Plane.AXIAL: (x, y), Plane.CORONAL: (x, z), Plane.SAGITTAL: (y, z)}[plane]


def _write(
    panel: Axes, x: float, y: float, words: str, *,
    colour: str, size: float, ha: str = "left", va: str = "bottom", weight: str = "normal",
) -> None:  # fmt: skip
    """Words in a panel, legible on white and on black; x and y are shares of the panel."""
    panel.text(
        x, y, words, transform=panel.transAxes, color=colour, fontsize=size, ha=ha, va=va,
        fontweight=weight, path_effects=[withStroke(linewidth=2.5, foreground="black")],
    )  # fmt: skip


def _letter(panel: Axes, plane: Plane) -> None:
    left, right, top, bottom = plane.letters
    for letter, x, y, ha, va in (
        (left, 0.02, 0.5, "left", "center"),
        (right, 0.98, 0.5, "right", "center"),
        (top, 0.5, 0.97, "center", "top"),
        (bottom, 0.5, 0.03, "center", "bottom"),
    ):
        _write(panel, x, y, letter, colour=_LETTER, size=12, ha=ha, va=va, weight="bold")


def _ruler(panel: Axes, width_mm: float) -> None:
    """A bar of 5 cm (1 cm in a small field) at the lower left."""
    length = 50.0 if width_mm > 100.0 else 10.0
    ends = [0.03, 0.03 + length / width_mm]
    panel.plot(ends, [0.035, 0.035], transform=panel.transAxes, color=_WHITE, lw=2)
    _write(panel, 0.03, 0.045, f"{length / 10:.0f} cm", colour=_WHITE, size=9)


def _colour_bar(figure: Figure, last: Axes, look: Look) -> None:
    full_w, full_h = figure.get_size_inches() * _DPI
    height = min(300.0, full_h - _HEAD_PX - _FOOT_PX - 40.0)
    left = last.get_position().x1 * full_w + 18.0
    axes = _panel(figure, left, (full_h + _HEAD_PX - _FOOT_PX - height) / 2 + 8, 16.0, height)
    scale = ScalarMappable(Normalize(look.low, look.high), colormaps[look.colours])
    bar = figure.colorbar(scale, cax=axes)
    bar.outline.set_edgecolor(_MUTED)
    bar.ax.tick_params(colors=_WHITE, labelsize=10, length=3)
    if look.unit == "a.u.":
        bar.set_ticks([look.low, look.high], labels=["dark", "bright"])
    bar.ax.set_title(look.unit, color=_WHITE, fontsize=10, loc="left", pad=8)


def _legend(figure: Figure, keys: Sequence[Line2D | Patch]) -> None:
    if not keys:
        return
    full_h = float(figure.get_size_inches()[1]) * _DPI
    figure.legend(
        handles=list(keys), loc="upper right", bbox_to_anchor=(1.0, 1 + 2 / full_h),
        ncols=len(keys), frameon=False, labelcolor=_WHITE, fontsize=10,
        handlelength=1.8, columnspacing=1.4,
    )  # fmt: skip
