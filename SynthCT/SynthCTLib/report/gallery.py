"""Which pictures a report shows, in which order, with what a reader is told about each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy import ndimage

from SynthCTLib.imaging.grids import Interpolator, resample, scanned_field
from SynthCTLib.imaging.masks import BONE_HU
from SynthCTLib.metrics.errors import difference
from SynthCTLib.metrics.histogram import hu_histogram
from SynthCTLib.metrics.pet import PetJudgement, PetKind
from SynthCTLib.report import figures
from SynthCTLib.report.content import ReportContent
from SynthCTLib.report.figures import Look, Outline, Shown, chart_png, film_png
from SynthCTLib.report.planes import Plane, View, canonical, view_of
from SynthCTLib.synthesis.synthesizer import Anatomy, Spread
from SynthCTLib.volume import Volume

_LOOK_FOR = {
    Anatomy.HEAD: "The skull should be closed and even, the sinuses and the airway black, the "
    "teeth bright.",
    Anatomy.BODY: "Bones should be whole, with a bright rim and a darker core.",
}
_UNCERTAIN = {
    Spread.STATED_ERROR: "The standard deviation of the error that the model expects there; the "
    "error to be expected, in absolute value, is 0.71 of it. It is no measured error: where the "
    "model is sure and wrong, it is dark.",
    Spread.ANSWERS: "Bright: the model's own sources disagree there by that many HU. It is no "
    "measured error: where all sources are wrong together, it is dark.",
}
_HATCHED = " Hatched: not founded on data, nothing is claimed there."
_HISTOGRAM_HU = np.arange(-1040.0, 2041.0, 20.0)
_BLOCK_MM = 5.0
_CUBE_BLOCKS = 3  # a cube of 15 mm: a lost piece of bone or a filled sinus, not the noise


@dataclass(frozen=True)
class Picture:
    """A figure as PNG, its words for those who cannot see it, and how to read it.

    ``dark_png`` replaces it on a dark page, where it is given.
    """

    name: str
    png: bytes
    alt: str
    caption: str
    dark_png: bytes | None = None


@dataclass(frozen=True)
class WorstPlace:
    """The cube with the largest mean absolute difference: its middle voxel (canonical) and HU."""

    point: tuple[int, int, int]
    mean_abs_hu: float
    cube_mm: float


@dataclass(frozen=True)
class Gallery:
    """The pictures of a report by section."""

    view: View
    images: tuple[Picture, ...]
    accuracy: tuple[Picture, ...]
    histogram: Picture | None

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All of them, in the order of the page."""
        last = () if self.histogram is None else (self.histogram,)
        return (*self.images, *self.accuracy, *last)


@dataclass(frozen=True, eq=False)
class _Scene:
    """The volumes to draw, all on the grid of the synthetic CT, and where they count."""

    view: View
    synthetic: Volume
    mr: Volume | None
    mr_scanned: Shown | None
    reference: Volume | None
    difference: Volume | None
    mu_map: Volume | None
    region: npt.NDArray[np.bool_]
    scanned: npt.NDArray[np.bool_]
    uncovered: npt.NDArray[np.bool_] | None


def gallery_of(content: ReportContent) -> Gallery:
    """Draw every picture that the content has the images for."""
    scene = _scene(content)
    return Gallery(
        scene.view,
        tuple(_images(content, scene)),
        (*_accuracy(scene), *_charts(content)),
        _histogram(scene, str(content.anatomy)),
    )


def _scene(content: ReportContent) -> _Scene:
    synthetic = content.synthetic
    everywhere = np.ones(synthetic.array.shape, bool)
    region = everywhere if content.region is None else content.region.array > 0
    uncovered = None
    if content.coverage is not None:
        uncovered = region & (content.coverage.array == 0)
    apart = content.difference
    if apart is None and content.reference is not None:
        apart = difference(content.reference, synthetic)
    return _Scene(
        view_of(synthetic, content.region),
        synthetic,
        _on_grid_of(synthetic, content.mr),
        _seen_by(synthetic, content.mr),
        content.reference,
        apart,
        _on_grid_of(synthetic, content.mu_map),
        region,
        everywhere if content.scanned is None else content.scanned.array > 0,
        uncovered if uncovered is not None and uncovered.any() else None,
    )


def _on_grid_of(synthetic: Volume, volume: Volume | None) -> Volume | None:
    if volume is None or volume.grid.matches(synthetic.grid):
        return volume
    return resample(volume, synthetic.grid)


def _seen_by(synthetic: Volume, mr: Volume | None) -> Shown | None:
    """Where an MR on another grid was scanned; None when that needs no telling."""
    if mr is None or mr.grid.matches(synthetic.grid):
        return None
    return Shown(scanned_field(mr, synthetic.grid).array > 0, "not scanned")


def _images(content: ReportContent, scene: _Scene) -> Iterator[Picture]:
    view, synthetic, reference = scene.view, scene.synthetic, scene.reference
    scanned = Shown(scene.scanned, "not scanned")
    if scene.mr is not None:
        look = Look.mr("MR (input)", scene.mr, view)
        figure = figures.planes_row(view, scene.mr, look, shown=scene.mr_scanned)
        yield _picture(scene, "mr", figure, "the MR", "The MR that the synthetic CT was made from.")
    under = scene.mr or reference
    if under is not None:
        yield _outline(scene, under)
    yield _picture(
        scene,
        "synthetic_bone",
        figures.planes_row(view, synthetic, Look.bone("Synthetic CT"), uncovered=scene.uncovered),
        "the synthetic CT in a bone window",
        _LOOK_FOR[content.anatomy] + (_HATCHED if scene.uncovered is not None else ""),
    )
    if reference is not None:
        yield _picture(
            scene,
            "reference_bone",
            figures.planes_row(view, reference, Look.bone("Reference CT"), shown=scanned),
            "the reference CT in a bone window",
            "The CT that is taken for the truth, on the grid of the synthetic CT: compare it with "
            "the row above.",
        )
    yield _picture(
        scene,
        "synthetic_soft_tissue",
        figures.planes_row(
            view, synthetic, Look.soft_tissue("Synthetic CT"), uncovered=scene.uncovered
        ),
        "the synthetic CT in a soft-tissue window",
        "Fat is dark, muscle and fluid are grey. No lesion, bleeding or swelling can be read from "
        "it: the model fills in what is usual.",
    )
    if reference is not None:
        yield _picture(
            scene,
            "reference_soft_tissue",
            figures.planes_row(view, reference, Look.soft_tissue("Reference CT"), shown=scanned),
            "the reference CT in a soft-tissue window",
            "The reference CT in the same window.",
        )
    if scene.difference is not None:
        compared = Shown(scene.region & scene.scanned, "not compared")
        yield _picture(
            scene,
            "difference",
            figures.planes_row(
                view,
                scene.difference,
                Look.difference(),
                shown=compared,
                uncovered=scene.uncovered,
            ),
            "the difference between synthetic and reference CT",
            "Red: the synthetic CT is too dense. Blue: not dense enough. White: they agree. Thin "
            "red and blue lines side by side along the bone are a shift of a millimetre or less; "
            "broad patches are errors. Beyond ±500 HU the colour stays the same.",
        )
        if content.pet is not None and content.pet.kind is PetKind.DIFFERENCE:
            yield _pet(scene, content.pet)
    if scene.mu_map is not None:
        by = f" by the convention {content.convention}" if content.convention else ""
        yield _picture(
            scene,
            "mu_map",
            figures.planes_row(view, scene.mu_map, Look.mu(), uncovered=scene.uncovered),
            "the attenuation map",
            f"What a PET is corrected with: the synthetic CT, converted{by}. Soft tissue is near "
            "0.096 1/cm (water), dense bone 0.13 to 0.17, air 0.",
        )
    if content.uncertainty is not None:
        yield _picture(
            scene,
            "uncertainty",
            figures.planes_row(
                view,
                content.uncertainty,
                Look.uncertainty(),
                shown=Shown(scene.region, f"outside the {content.anatomy}"),
                uncovered=scene.uncovered,
            ),
            "the uncertainty stated by the model",
            _UNCERTAIN[content.spread],
        )
        if content.pet is not None and content.pet.kind is PetKind.UNCERTAINTY:
            yield _pet(scene, content.pet)


def _pet(scene: _Scene, pet: PetJudgement) -> Picture:
    """The change of a PET on its own, coarse voxels."""
    grid = scene.synthetic.grid
    nearest = Interpolator.NEAREST
    values = resample(pet.map, grid, interpolator=nearest)
    counted = resample(pet.counted, grid, interpolator=nearest).array > 0
    spacing = " x ".join(f"{s:.1f}" for s in pet.map.grid.spacing_mm)
    if pet.kind is PetKind.DIFFERENCE:
        look, shows = Look.pet_difference(), "the effect of the difference on a PET"
        caption = (
            "How much a PET changes that is corrected with the synthetic instead of the reference "
            "CT: red too high, blue too low. A large error of HU beside an organ may do little "
            "here, a small one all along a bone much."
        )
    else:
        look, shows = Look.pet_uncertainty(), "the uncertainty of a PET"
        caption = (
            "How far a PET would move if every voxel of the synthetic CT were off by its stated "
            "uncertainty in the same direction: the worst case, and no better than what the model "
            "states."
        )
    figure = figures.planes_row(scene.view, values, look, shown=Shown(counted, "not counted"))
    return _picture(
        scene, f"pet_{pet.kind}", figure, shows,
        f"{caption} Simulated on voxels of {spacing} mm with {pet.activity}.",
    )  # fmt: skip


def _outline(scene: _Scene, under: Volume) -> Picture:
    view = scene.view
    onto = "MR" if under is scene.mr else "reference CT"
    title = f"Bone of the synthetic CT (300 HU) outlined on the {onto}"
    if under is scene.mr:
        look = Look.mr(title, under, view)
    else:
        look = replace(Look.soft_tissue(""), title=title)
    outlines = [Outline(scene.synthetic, BONE_HU, figures.SYNTHETIC_COLOUR, "synthetic CT")]
    words = "The line should run along the edges of the bone, which is dark in the MR"
    if under is not scene.mr:
        words = "The line should run along the white bone of the reference CT"
    if scene.reference is not None and under is scene.mr:
        outlines.append(
            Outline(scene.reference, BONE_HU, figures.REFERENCE_COLOUR, "reference CT", "dashed")
        )
        words += ", and on the dashed line of the reference CT"
    seen = scene.mr_scanned if under is scene.mr else Shown(scene.scanned, "not scanned")
    figure = figures.planes_row(view, under, look, shown=seen, outlines=outlines)
    return _picture(
        scene,
        "bone_outline",
        figure,
        f"the {onto} with the outline of the synthetic bone",
        f"{words}. Where it crosses soft tissue, the bone is in the wrong place.",
    )


def _accuracy(scene: _Scene) -> Iterator[Picture]:
    if scene.difference is None or scene.reference is None:
        return
    counted = scene.region & scene.scanned
    if scene.uncovered is not None:
        counted &= ~scene.uncovered
    worst = worst_place(scene.difference, counted)
    if worst is None:
        return
    view = replace(scene.view, point=worst.point)
    columns = [
        ("Synthetic CT", scene.synthetic, Look.bone("")),
        ("Reference CT", scene.reference, Look.bone("")),
        ("Difference", scene.difference, Look.difference()),
    ]
    if scene.mr is not None:
        columns.insert(0, ("MR", scene.mr, Look.mr("", scene.mr, view)))
    title = "Where the two differ most (CT window W 2000 L 500 HU)"
    figure = figures.close_up(view, columns, title, worst.cube_mm / 2)
    places = ", ".join(view.where(plane) for plane in Plane)
    yield Picture(
        "largest_difference",
        film_png(figure),
        f"Close-up of the place of the largest difference at {places}, in each image.",
        f"In a cube of {worst.cube_mm:.0f} mm at {places} the two differ by "
        f"{worst.mean_abs_hu:.0f} HU on average, more than anywhere else. Common reasons: metal, "
        "a cavity filled with tissue or bone, a piece of bone that is missing, a shift.",
    )


def _charts(content: ReportContent) -> Iterator[Picture]:
    evaluation = content.evaluation
    if evaluation is None:
        return
    curve, dice = evaluation.error_curve, evaluation.bone.dice_curve
    yield Picture(
        "error_by_hu",
        chart_png(figures.error_by_hu(curve, dark=False)),
        "Mean error and mean absolute error of the synthetic CT over the HU of the reference CT.",
        "The error by the true HU. Above the zero line on the left, air is filled with tissue; "
        "below it on the right, bone is too soft, the usual fault of a model that plays safe. The "
        "band is one standard deviation.",
        chart_png(figures.error_by_hu(curve, dark=True)),
    )
    if any(math.isfinite(d) for d in dice.dice):
        yield Picture(
            "dice_by_threshold",
            chart_png(figures.dice_over_threshold(dice, dark=False)),
            "Dice coefficient of bone over the threshold from which HU are called bone.",
            "Overlap of all that reaches a threshold. A line that falls early means that bone is "
            "there but not dense enough; a low line throughout, that it is in the wrong place.",
            chart_png(figures.dice_over_threshold(dice, dark=True)),
        )


def worst_place(apart: Volume, counted: npt.NDArray[np.bool_]) -> WorstPlace | None:
    """The cube of about 15 mm in which a difference (HU) is largest; None when none is counted.

    Only voxels that count enter the mean, and at least half of a cube must.
    """
    grid = apart.grid
    values = canonical(apart.array, grid)
    inside = canonical(counted, grid)
    spacing = View(grid, (0, 0, 0), ((0, 1),) * 3).spacing_mm
    block = tuple(
        min(n, max(1, round(_BLOCK_MM / step)))
        for n, step in zip(values.shape, reversed(spacing), strict=True)
    )
    error, share = _block_means(values, inside, block)
    error = ndimage.uniform_filter(error, _CUBE_BLOCKS, mode="nearest")
    share = ndimage.uniform_filter(share, _CUBE_BLOCKS, mode="nearest")
    mean = np.where(share >= 0.5, error / np.maximum(share, 0.5), -1.0)
    at = np.unravel_index(int(mean.argmax()), mean.shape)
    if mean[at] < 0:
        return None
    z, y, x = (int(i) * b + b // 2 for i, b in zip(at, block, strict=True))
    cube_mm = _CUBE_BLOCKS * float(np.mean(np.multiply(block, spacing[::-1])))
    return WorstPlace((x, y, z), float(mean[at]), cube_mm)


def _block_means(
    values: npt.NDArray[np.generic], inside: npt.NDArray[np.bool_], block: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean over blocks of |value| where it counts and 0 elsewhere, and the share that counts.

    An incomplete block at the end of an axis is left out. A layer of blocks at a time, because a
    copy of a 0.4 mm head is half a gigabyte.
    """
    layers, rows, columns = (n // b for n, b in zip(values.shape, block, strict=True))
    error = np.empty((layers, rows, columns), np.float32)
    share = np.empty_like(error)
    for layer in range(layers):
        part = (
            slice(layer * block[0], (layer + 1) * block[0]),
            slice(0, rows * block[1]),
            slice(0, columns * block[2]),
        )
        blocks = (block[0], rows, block[1], columns, block[2])
        counts = inside[part].reshape(blocks)
        absolute = np.where(counts, np.abs(values[part].reshape(blocks)), np.float32(0))
        error[layer] = absolute.mean(axis=(0, 2, 4))
        share[layer] = counts.mean(axis=(0, 2, 4))
    return error, share


def _histogram(scene: _Scene, region: str) -> Picture | None:
    where = scene.synthetic.mask(scene.region & scene.scanned)
    if not where.array.any():
        return None
    curves = [("synthetic CT", hu_histogram(scene.synthetic, where, _HISTOGRAM_HU))]
    caption = (
        f"How often each HU occurs in the {region}; each line of the scale is ten times the one "
        "below. Air is on the left, fat and soft tissue make the high peak, bone is on the right."
    )
    if scene.reference is not None:
        curves.append(("reference CT", hu_histogram(scene.reference, where, _HISTOGRAM_HU)))
        caption += (
            " The two lines should run together; a synthetic line that falls off early on the "
            "right means that dense bone is too soft."
        )
    return Picture(
        "histogram",
        chart_png(figures.hu_curves(curves, dark=False)),
        f"Histogram of HU in the {region} for " + " and ".join(name for name, _ in curves) + ".",
        caption,
        chart_png(figures.hu_curves(curves, dark=True)),
    )


def _picture(scene: _Scene, name: str, figure: Figure, shows: str, caption: str) -> Picture:
    places = ", ".join(f"{plane.title.lower()} at {scene.view.where(plane)}" for plane in Plane)
    alt = f"Three slices of {shows}: {places}. The patient's right is on the left of the picture."
    return Picture(name, film_png(figure), alt, caption)
