"""The report: left is left, nothing is claimed that was not checked, one file that is whole."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.imaging.gate import Finding, Severity
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.metrics.evaluation import Evaluation, MaskFigures, evaluate
from SynthCTLib.metrics.pet import PetJudgement, PetKind, PetRow
from SynthCTLib.physics.mumap import hu_to_mu, mean_mu_by_tissue
from SynthCTLib.registration.quality import Fit, Quality, Registration
from SynthCTLib.registration.quality import Kind as RegistrationKind
from SynthCTLib.report import Kind, ReportContent, write_report
from SynthCTLib.report.figures import (
    SYNTHETIC_COLOUR,
    Look,
    Outline,
    Shown,
    chart_png,
    film_png,
    planes_row,
)
from SynthCTLib.report.gallery import gallery_of, worst_place
from SynthCTLib.report.html import methods_paragraph
from SynthCTLib.report.literature import MAE_HEAD_HU
from SynthCTLib.report.planes import Plane, View, canonical, view_of
from SynthCTLib.report.verdict import Facts, Level, facts_of, judge, percent
from SynthCTLib.synthesis.synthesizer import Anatomy, Spread
from SynthCTLib.volume import DEFAULT_UNIT, Role, Source, Step, Unit, Volume

ORIENTATIONS = ["LPS", "RAS", "LIP", "PSR", "ASL", "IRP", "SPL"]
ALL_ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*axes)
]


def volume(
    array: npt.NDArray[Any],
    role: Role = Role.CT,
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    direction: npt.NDArray[np.float64] | None = None,
) -> Volume:
    """A volume with x to the left, y to posterior, z to superior, unless a direction is given."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-31.0, -35.0, -20.0))
    if direction is not None:
        image.SetDirection(direction.ravel().tolist())
    return Volume(image, role, DEFAULT_UNIT[role])


def oriented(v: Volume, code: str) -> Volume:
    return v.with_image(sitk.DICOMOrient(v.image, code))


def rotation(degrees: float) -> npt.NDArray[np.float64]:
    """About an axis that is none of the image's."""
    return np.reshape(
        sitk.VersorTransform(
            tuple(np.array([1.0, 2.0, 2.0]) / 3.0), np.radians(degrees)
        ).GetMatrix(),
        (3, 3),
    )


def head_pair() -> tuple[Volume, Volume, Volume]:
    """Synthetic and reference CT of a ball with a shell, and its mask; 40 x 44 x 36 voxels of 2 mm.

    The synthetic one has a ball of bone too much: to the left, anterior and superior.
    """
    z, y, x = np.indices((36, 44, 40), dtype=np.float32)
    r = np.sqrt(((x - 19.5) / 17) ** 2 + ((y - 21.5) / 19) ** 2 + ((z - 17.5) / 15) ** 2)
    hu = np.select([r < 0.8, r < 0.95, r < 1.0], [35.0, 900.0, 20.0], -1000.0).astype(np.float32)
    blob = (x - 27) ** 2 + (y - 14) ** 2 + (z - 24) ** 2 < 16
    synthetic = np.where(blob, np.float32(900), hu)
    return volume(synthetic), volume(hu), volume((r < 1.0).astype(np.uint8), Role.MASK)


def mr_of(ct: Volume) -> Volume:
    hu = ct.array
    return ct.with_array(
        np.select([hu < -500, hu > 300], [2.0, 10.0], 300.0).astype(np.float32), role=Role.MR
    )


def evaluated(synthetic: Volume, reference: Volume, region: Volume) -> Evaluation:
    bone = region.mask((region.array > 0) & (reference.array >= 300))
    return evaluate(reference, synthetic, {"head": region, "skull": bone})


def pet_judgement(region: Volume, kind: PetKind = PetKind.DIFFERENCE) -> PetJudgement:
    coarse = region.with_image(sitk.Shrink(region.image, (2, 2, 2)))
    percent = np.where(coarse.array > 0, np.float32(6), np.float32(0))
    shares = {5.0: 0.75, 10.0: 0.125, 15.0: 0.0}
    return PetJudgement(
        kind,
        coarse.with_array(percent, role=Role.PET, unit=Unit.PERCENT),
        coarse,
        (
            PetRow(3000, -2.5, 4.0, 6.25, shares, "head"),
            PetRow(2, math.nan, math.nan, math.nan, dict.fromkeys(shares, math.nan), "skull"),
        ),
        "a made-up activity",
    )


def full_content(**changes: Any) -> ReportContent:
    """A report with everything in it."""
    synthetic, reference, region = head_pair()
    lower = np.zeros(region.array.shape, bool)
    lower[:5] = True
    content = ReportContent(
        title="subject 7",
        kind=Kind.EVALUATION,
        synthetic=synthetic,
        mr=mr_of(reference),
        reference=reference,
        mu_map=hu_to_mu(synthetic),
        uncertainty=synthetic.with_array(
            np.full(region.array.shape, 40.0, np.float32), role=Role.UNCERTAINTY
        ),
        pet=pet_judgement(region),
        coverage=region.mask(~lower),
        region=region,
        scanned=region.mask(~lower[::-1]),
        evaluation=evaluated(synthetic, reference, region),
        findings=(
            Finding(Severity.ERROR, "no-vertex", "MR", "The vertex is cut off: scan it whole."),
            Finding(Severity.WARNING, "thick", "MR", "Slices are 6 mm thick: expect blur."),
            Finding(Severity.NOTE, "child", "MR", "The head is that of a child."),
        ),
        notes=("No graphics card was found: the processor was used.",),
        model={"Name": "atlas-fusion", "Version": "3", "Limits": ("no implants", "adults")},
        mu_table=mean_mu_by_tissue(synthetic, {"soft_tissue": region}),
        convention="carney-140",
        registration=Registration(
            sitk.Transform(3, sitk.sitkIdentity),
            RegistrationKind.RIGID,
            Quality(0.41, 0.93, 0.0),
            1.1,
            True,
            87,
            Fit(0.37, 2.6, 0.14, 21, True),
        ),
        sources={"MR": Source("t1.nii.gz", "ab" * 32)},
        steps=(Step("correct_bias", {"shrink": 4, "levels": [1, 2]}),),
        timings_s={"Reading": 1.25},
        versions={"SynthCT": "9.8.7"},
        created=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )
    return replace(content, **changes)


def bare_content(**changes: Any) -> ReportContent:
    synthetic, _, _ = head_pair()
    return replace(
        ReportContent(title="subject 7", kind=Kind.SYNTHESIS, synthetic=synthetic), **changes
    )


class Page(HTMLParser):
    """What is in a page: elements with their attributes, text, and whether tags are balanced."""

    VOID = frozenset({"meta", "img", "source", "link", "br", "hr", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> set[str]:
        return {attributes["id"] for attributes in self.of("section")}


@pytest.fixture(scope="module")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(full_content(), tmp_path_factory.mktemp("full") / "new" / "job")


@pytest.fixture(scope="module")
def full_page(full_report: Path) -> Page:
    return Page(full_report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bare_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(bare_content(), tmp_path_factory.mktemp("bare")).read_text("utf-8"))


# Planes


@pytest.mark.parametrize("code", ALL_ORIENTATIONS)
def test_canonical_order_is_that_of_to_lps(code: str) -> None:
    numbers = volume(np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5))
    turned = oriented(numbers, code)

    seen = canonical(turned.array, turned.grid)

    np.testing.assert_array_equal(seen, numbers.array)
    np.testing.assert_array_equal(seen, to_lps(turned).volume.array)
    assert np.shares_memory(seen, turned.array)


@pytest.mark.parametrize("degrees", [-40.0, -12.0, 17.0, 44.0])
@pytest.mark.parametrize("code", ORIENTATIONS)
def test_canonical_order_of_an_oblique_image_is_that_of_to_lps(code: str, degrees: float) -> None:
    array = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    turned = oriented(volume(array, direction=rotation(degrees)), code)
    np.testing.assert_array_equal(canonical(turned.array, turned.grid), to_lps(turned).volume.array)


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_position_is_that_of_the_point_in_lps_mm(code: str) -> None:
    ct = volume(np.zeros((10, 20, 30), np.float32), spacing=(1.0, 2.0, 3.0))
    expected = ct.image.TransformIndexToPhysicalPoint((29, 3, 4))
    turned = oriented(ct, code)
    view = View(turned.grid, (29, 3, 4), ((0, 30), (0, 20), (0, 10)))
    assert view.spacing_mm == pytest.approx((1.0, 2.0, 3.0))
    assert tuple(view.position_mm) == pytest.approx(expected)
    assert [view.where(plane) for plane in Plane] == ["I 8 mm", "A 29 mm", "R 2 mm"]


def test_positive_lps_is_left_posterior_superior_and_zero_has_no_side() -> None:
    ct = volume(np.zeros((40, 40, 40), np.float32))
    view = View(ct.grid, (20, 20, 10), ((0, 40),) * 3)
    assert [view.where(plane) for plane in Plane] == ["0 mm", "P 5 mm", "L 9 mm"]


def test_tilt_is_the_angle_of_the_worst_axis() -> None:
    ct = volume(np.zeros((2, 2, 2), np.float32), direction=_about_z(20.0))
    assert View(ct.grid, (0, 0, 0), ((0, 2),) * 3).tilt_degrees == pytest.approx(20.0)
    straight = oriented(volume(np.zeros((2, 2, 2), np.float32)), "PSR")
    assert View(straight.grid, (0, 0, 0), ((0, 2),) * 3).tilt_degrees == pytest.approx(0.0)


def _about_z(degrees: float) -> npt.NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def test_view_shows_what_is_dense_outside_the_mask_too() -> None:
    hu = np.full((40, 40, 40), -1000.0, np.float32)
    hu[10:20, 10:20, 10:20] = 30.0
    mask = volume((hu > 0).astype(np.uint8), Role.MASK)
    near = view_of(volume(hu), mask)
    assert near.point == (14, 14, 14)
    assert near.box == ((6, 24),) * 3

    hu[14, 14, 36] = 500.0
    far = view_of(volume(hu), mask)
    assert far.point == near.point
    assert far.box == ((6, 40), (6, 24), (6, 24))


def test_view_of_nothing_is_the_middle_of_everything() -> None:
    view = view_of(volume(np.full((8, 10, 12), -1000.0, np.float32)), None)
    assert view.box == ((0, 12), (0, 10), (0, 8))
    assert view.point == pytest.approx((5.5, 4.5, 3.5), abs=0.6)


def test_view_around_a_point_stays_in_the_box() -> None:
    ct = volume(np.zeros((40, 40, 40), np.float32))
    near = View(ct.grid, (20, 20, 20), ((0, 40),) * 3).around((1, 20, 39), 20.0)
    assert near.box == ((0, 10), (15, 25), (30, 40))


# Pictures: left is left


def _red_in_panels(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Middle (x, y) and size (w, h) of what is deep red in each slice, in shares of the panel."""
    pixels = np.asarray(Image.open(io.BytesIO(film_png(figure))).convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    found = []
    for panel in figure.axes[:3]:
        box = panel.get_position()
        rows = slice(round((1 - box.y1) * height), round((1 - box.y0) * height))
        columns = slice(round(box.x0 * width), round(box.x1 * width))
        r, g, b = np.moveaxis(pixels[rows, columns], -1, 0)
        y, x = np.nonzero((r > 80) & (g < 30) & (b < 60))
        assert y.size, "there is no red"
        w, h = columns.stop - columns.start, rows.stop - rows.start
        found.append((x.mean() / w, y.mean() / h, float(np.ptp(x)), float(np.ptp(y))))
    return found


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize("code", ORIENTATIONS)
def test_left_anterior_and_superior_are_where_they_belong(code: str, degrees: float) -> None:
    hu = np.zeros((36, 44, 40), np.float32)
    hu[22:27, 11:16, 26:31] = 800.0  # superior, anterior, left
    base = volume(hu, direction=rotation(degrees))
    ct = oriented(base, code)
    view = View(ct.grid, (28, 13, 24), ((0, 40), (0, 44), (0, 36)))

    axial, coronal, sagittal = _red_in_panels(planes_row(view, ct, Look.difference()))

    # x runs from the patient's right to the left, y from top to bottom of the picture.
    assert axial[:2] == pytest.approx((28.5 / 40, 13.5 / 44), abs=0.01)
    assert coronal[:2] == pytest.approx((28.5 / 40, 1 - 24.5 / 36), abs=0.01)
    assert sagittal[:2] == pytest.approx((13.5 / 44, 1 - 24.5 / 36), abs=0.01)


def test_letters_stand_at_their_edges() -> None:
    assert Plane.AXIAL.letters == ("R", "L", "A", "P")
    assert Plane.CORONAL.letters == ("R", "L", "S", "I")
    assert Plane.SAGITTAL.letters == ("A", "P", "S", "I")
    synthetic, _, region = head_pair()
    figure = planes_row(view_of(synthetic, region), synthetic, Look.bone("CT"))
    for panel, plane in zip(figure.axes, Plane, strict=False):
        places = {text.get_text(): text.get_position() for text in panel.texts}
        left, right, top, bottom = (places[letter] for letter in plane.letters)
        assert left[0] < 0.1 < 0.9 < right[0]
        assert bottom[1] < 0.1 < 0.9 < top[1]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0), (3.0, 1.0, 1.5)])
@pytest.mark.parametrize("code", ["LPS", "SPL"])
def test_a_ball_is_round_whatever_the_voxels(
    spacing: tuple[float, float, float], code: str
) -> None:
    shape = [round(120 / step) for step in reversed(spacing)]
    z, y, x = (
        (i - (n - 1) / 2) * step
        for i, n, step in zip(np.indices(shape), shape, reversed(spacing), strict=True)
    )
    ball = volume(
        np.where(x**2 + y**2 + z**2 < 36**2, 800.0, 0.0).astype(np.float32), Role.CT, spacing
    )
    ct = oriented(ball, code)
    nx, ny, nz = reversed(shape)
    view = View(ct.grid, (nx // 2, ny // 2, nz // 2), ((0, nx), (0, ny), (0, nz)))

    found = _red_in_panels(planes_row(view, ct, Look.difference()))

    for _, _, width, height in found:
        assert width == pytest.approx(height, rel=0.07)  # the coarsest voxel is 4 of 72 mm
    assert found[0][2] == pytest.approx(found[2][2], rel=0.07)  # one scale for all planes


def test_difference_is_symmetric_and_neutral_at_zero() -> None:
    look = Look.difference()
    assert look.low == -look.high < 0
    synthetic, reference, region = head_pair()
    nothing = synthetic.with_array(synthetic.array * 0)
    figure = planes_row(view_of(synthetic, region), nothing, look)
    assert np.ptp(_pixel(figure, 0, 0.3, 0.3)) <= 6
    assert _pixel(figure, 0, 0.3, 0.3).min() > 230
    assert reference.grid.matches(nothing.grid)


def test_where_nothing_was_scanned_is_grey() -> None:
    synthetic, _, region = head_pair()
    inside = np.ones(region.array.shape, bool)
    inside[:, :, :20] = False  # the patient's right
    shown = Shown(inside, "not scanned")
    figure = planes_row(view_of(synthetic, region), synthetic, Look.bone("CT"), shown=shown)
    assert _pixel(figure, 0, 0.2, 0.3) == pytest.approx((0x4A, 0x4F, 0x55), abs=4)
    assert _pixel(figure, 0, 0.8, 0.8) != pytest.approx((0x4A, 0x4F, 0x55), abs=4)


def test_uncovered_is_hatched_and_covered_is_not() -> None:
    synthetic, _, region = head_pair()
    view = view_of(synthetic, region)
    uncovered = np.zeros(region.array.shape, bool)
    plain = planes_row(view, synthetic, Look.bone("CT"), uncovered=uncovered)
    uncovered[:8] = True  # inferior: not in the axial slice shown
    hatched = planes_row(view, synthetic, Look.bone("CT"), uncovered=uncovered)
    assert _amber(plain) == [0, 0, 0]
    axial, coronal, sagittal = _amber(hatched)
    assert axial == 0
    assert min(coronal, sagittal) > 300


def test_outline_follows_the_bone() -> None:
    synthetic, _, region = head_pair()
    view = view_of(synthetic, region)
    outline = Outline(synthetic, 300.0, "#e69f00", "bone")
    blank = synthetic.with_array(synthetic.array * 0)
    figure = planes_row(view, blank, Look.bone("CT"), outlines=[outline])
    lines = figure.axes[0].collections[0].get_paths()[0].vertices
    assert np.ptp(lines[:, 0]) == pytest.approx(2 * 0.95 * 17 * 2, rel=0.05)
    assert np.ptp(lines[:, 1]) == pytest.approx(2 * 0.95 * 19 * 2, rel=0.05)
    none = planes_row(view, blank, Look.bone("CT"), outlines=[replace(outline, volume=blank)])
    assert not none.axes[0].collections


def _panels(figure: Figure) -> Iterator[npt.NDArray[np.int_]]:
    pixels = np.asarray(Image.open(io.BytesIO(chart_png(figure))).convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    for panel in figure.axes[:3]:
        box = panel.get_position()
        yield pixels[
            round((1 - box.y1) * height) : round((1 - box.y0) * height),
            round(box.x0 * width) : round(box.x1 * width),
        ]


def _pixel(figure: Figure, panel: int, right: float, down: float) -> npt.NDArray[np.int_]:
    pixels = list(_panels(figure))[panel]
    return pixels[round(down * len(pixels)), round(right * pixels.shape[1])]


def _amber(figure: Figure) -> list[int]:
    counts = []
    for pixels in _panels(figure):
        r, g, b = np.moveaxis(pixels, -1, 0)
        counts.append(int(np.count_nonzero((r > 150) & (g > 90) & (g < 190) & (b < 60))))
    return counts


def test_values_that_are_not_numbers_are_grey_and_no_warning() -> None:
    synthetic, _, region = head_pair()
    holes = synthetic.array.copy()
    holes[:, :, :25] = np.nan
    figure = planes_row(view_of(synthetic, region), synthetic.with_array(holes), Look.bone("CT"))
    assert _pixel(figure, 0, 0.2, 0.3) == pytest.approx((0x4A, 0x4F, 0x55), abs=4)


def test_mr_that_is_constant_is_drawn() -> None:
    synthetic, _, region = head_pair()
    flat = synthetic.with_array(synthetic.array * 0 + 5, role=Role.MR)
    look = Look.mr("MR", flat, view_of(synthetic, region))
    assert look.high > look.low


def test_palette_stays_close_to_full_colour() -> None:
    synthetic, _, region = head_pair()
    view = view_of(synthetic, region)
    for look in (Look.difference(), Look.uncertainty(), Look.bone("CT")):
        figure = planes_row(view, synthetic, look)
        full = np.asarray(Image.open(io.BytesIO(chart_png(figure))).convert("RGB")).astype(int)
        film = np.asarray(Image.open(io.BytesIO(film_png(figure))).convert("RGB")).astype(int)
        assert np.percentile(np.abs(full - film), 99.5) <= 16
        assert len(film_png(figure)) < len(chart_png(figure))


def test_the_line_of_a_legend_keeps_its_colour() -> None:
    """It is a few pixels of a picture that holds no other of that colour."""
    synthetic, reference, _ = head_pair()
    empty = Outline(synthetic, 5000.0, SYNTHETIC_COLOUR, "synthetic CT")
    grey = mr_of(reference)
    view = view_of(synthetic, None)
    figure = planes_row(view, grey, Look.mr("MR", grey, view), outlines=[empty])
    with Image.open(io.BytesIO(film_png(figure))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = [int(SYNTHETIC_COLOUR[i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(pixels - wanted).max(axis=-1) <= 2).sum() >= 15


def test_pictures_made_in_threads_are_those_made_alone() -> None:
    synthetic, reference, region = head_pair()
    view = view_of(synthetic, region)
    looks = [Look.bone("CT"), Look.difference(), Look.uncertainty(), Look.soft_tissue("CT")]

    def draw(look: Look) -> bytes:
        outline = Outline(reference, 300.0, "#ffffff", "bone")
        return film_png(planes_row(view, synthetic, look, outlines=[outline]))

    alone = [draw(look) for look in looks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, looks)) == alone


def test_no_global_figure_state_is_used() -> None:
    code = "import sys, SynthCTLib.report\nsys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The worst place


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_worst_place_is_found(code: str) -> None:
    error = np.random.default_rng(5).normal(0, 20, (36, 44, 40)).astype(np.float32)
    error[8:15, 30:37, 5:12] -= 400.0
    error[0, 0, 0] = 9000.0  # one voxel is no place
    apart = oriented(volume(error), code)
    worst = worst_place(apart, np.ones(apart.array.shape, bool))
    assert worst is not None
    assert worst.point == pytest.approx((8, 33, 11), abs=2)
    assert 300 < worst.mean_abs_hu < 420
    assert worst.cube_mm == pytest.approx(15, rel=0.25)


def test_worst_place_is_only_looked_for_where_it_counts() -> None:
    error = np.zeros((36, 44, 40), np.float32)
    error[8:16, 8:16, 8:16] = 900.0
    error[24:32, 24:32, 24:32] = 100.0
    counted = np.ones(error.shape, bool)
    counted[:20] = False
    worst = worst_place(volume(error), counted)
    assert worst is not None
    assert worst.point == pytest.approx((28, 28, 28), abs=2)
    assert worst.mean_abs_hu == pytest.approx(100, rel=0.2)
    assert worst_place(volume(error), np.zeros(error.shape, bool)) is None


def test_worst_place_in_a_volume_thinner_than_a_block() -> None:
    error = np.full((2, 30, 30), 50.0, np.float32)
    worst = worst_place(volume(error, spacing=(1.0, 1.0, 1.0)), np.ones(error.shape, bool))
    assert worst is not None
    assert worst.mean_abs_hu == pytest.approx(50.0)


# The page


def test_page_is_well_formed_and_loads_nothing(full_page: Page, full_report: Path) -> None:
    assert full_page.open == []
    assert full_page.of("html") == [{"lang": "en"}]
    assert {tag for tag, _ in full_page.elements}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "form"}
    )
    for tag, attributes in full_page.elements:
        for name in ("src", "srcset", "href", "action", "data", "poster", "background"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/png;base64,", "#")), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
    html = full_report.read_text("utf-8")
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_page_can_be_heard(full_page: Page) -> None:
    assert all(image["alt"].strip() for image in full_page.of("img"))
    levels = [int(tag[1]) for tag, _ in full_page.elements if tag in {"h1", "h2", "h3", "h4"}]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(cell["scope"] in {"row", "col"} for cell in full_page.of("th"))
    assert len(full_page.of("caption")) == len(full_page.of("table"))
    targets = {link["href"][1:] for link in full_page.of("a")}
    assert targets == full_page.sections
    ids = [a["id"] for _, a in full_page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_page_says_first_that_it_is_for_research(full_page: Page, bare_page: Page) -> None:
    for page in (full_page, bare_page):
        first = "".join(page.words).split("SynthCT report")[0]
        assert "Research use only, not for diagnosis." in first


def test_findings_and_notes_are_in_the_page_with_words_for_their_severity(full_page: Page) -> None:
    content = full_content()
    for finding in content.findings:
        word = finding.severity.value.capitalize()
        assert f"{word} {finding.subject}: {finding.message} {finding.rule}" in full_page.text
    assert content.notes[0] in full_page.text


def test_facts_are_in_the_page(full_page: Page) -> None:
    content = full_content()
    assert content.evaluation is not None
    for words in (
        "subject 7",
        "2026-01-02 03:04",
        f"{content.evaluation.row('head').mae_hu:.1f}",
        f"{content.evaluation.row('head').jaccard_bone:.3f}",
        "100.4 ± 21.3 HU",
        "0.73 ± 0.07",
        "8.4 ± 2.1 %",
        "carney-140 (used here)",
        "stir-ge-120",
        "no implants",
        "ab" * 32,
        "correct bias",
        "shrink 4, levels [1, 2]",
        "87 iterations",
        "0.4 mm",
        "2.6 mm",
        "median of 21 places near bone; 4 mm or more in 14 %",
        "9.8.7",
    ):
        assert words in full_page.text


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script><img src=http://evil.example/x.png onerror=\"y\">&amp;"
    content = bare_content(
        title=hostile,
        findings=(Finding(Severity.WARNING, hostile, hostile, hostile),),
        notes=(hostile,),
        model={hostile: hostile, "Limits": (hostile,), "Name": hostile},
        sources={hostile: Source(hostile, hostile)},
        steps=(Step(hostile, {hostile: hostile}),),
        timings_s={hostile: 1.0},
        versions={hostile: hostile, "SynthCT": hostile},
    )
    page = Page(write_report(content, tmp_path).read_text("utf-8"))
    assert page.of("script") == []
    assert all(image["src"].startswith("data:") for image in page.of("img"))
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert page.text.count("<script>alert('x')</script>") >= 10
    assert page.open == []


def test_pictures_lie_beside_the_page_and_in_it(full_report: Path, full_page: Page) -> None:
    files = {path.stem: path.read_bytes() for path in full_report.parent.glob("figures/*.png")}
    assert set(files) == {
        "mr",
        "bone_outline",
        "synthetic_bone",
        "reference_bone",
        "synthetic_soft_tissue",
        "reference_soft_tissue",
        "difference",
        "pet_difference",
        "mu_map",
        "uncertainty",
        "largest_difference",
        "error_by_hu",
        "dice_by_threshold",
        "histogram",
    }
    inlined = [
        base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        for image in full_page.of("img")
    ]
    assert sorted(inlined) == sorted(files.values())
    dark = full_page.of("source")
    assert len(dark) == 3  # the charts; images stand on black in either page
    for source in dark:
        assert base64.b64decode(source["srcset"].split(",")[1]) not in inlined
    for png in inlined:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            assert image.format == "PNG"
            assert 500 <= image.width <= 1300
            assert 250 <= image.height <= 900
        assert len(png) < 500_000
    assert full_report.stat().st_size < 4 * 2**20
    assert sorted(p.name for p in full_report.parent.iterdir()) == ["figures", "report.html"]


def test_sections_without_content_are_absent(
    full_page: Page, bare_page: Page, tmp_path: Path
) -> None:
    optional = {"accuracy", "pet", "attenuation", "registration", "provenance"}
    always = {"summary", "checks", "pictures", "histogram", "method"}
    assert full_page.sections == always | optional
    assert bare_page.sections == always
    for words in ("eference CT in", "Published", "Said during", "None", "SHA"):
        assert words not in bare_page.text
    assert "no reference CT of this person" in bare_page.text
    out = write_report(bare_content(), tmp_path)
    assert {path.stem for path in out.parent.glob("figures/*.png")} == {
        "synthetic_bone",
        "synthetic_soft_tissue",
        "histogram",
    }
    assert "The checks of the input had nothing to report." in bare_page.text
    assert "The checks of the input had nothing to report." not in full_page.text
    assert "Hatched: not founded on data" in full_page.text
    assert "Hatched" not in bare_page.text


def test_effect_on_a_pet_is_shown_after_the_difference(full_page: Page) -> None:
    assert "Effect on a PET" in full_page.text
    assert "Head −2.5 4.0 6.2 75.0 12.5 0.0" in full_page.text
    assert "Skull – – – – – –" in full_page.text
    assert "with a made-up activity" in full_page.text
    assert "(a made-up activity): attenuated line integrals were reconstructed" in full_page.text
    shown = [image["alt"] for image in full_page.of("img")]
    at = next(i for i, alt in enumerate(shown) if "the effect of the difference on a PET" in alt)
    assert "the difference between synthetic and reference CT" in shown[at - 1]


def test_uncertainty_of_a_pet_is_called_one(tmp_path: Path) -> None:
    region = head_pair()[2]
    uncertain = full_content().uncertainty
    content = bare_content(
        uncertainty=uncertain, region=region, pet=pet_judgement(region, PetKind.UNCERTAINTY)
    )
    page = Page(write_report(content, tmp_path).read_text("utf-8"))
    assert "Uncertainty of a PET" in page.text
    assert "the worst case" in page.text
    assert "reference CT" not in page.text.replace("no reference CT of this person", "").replace(
        "without a reference CT nothing", ""
    )
    assert (tmp_path / "figures" / "pet_uncertainty.png").is_file()


def test_limb_is_not_called_a_head(tmp_path: Path) -> None:
    content = full_content(anatomy=Anatomy.BODY, findings=(), pet=None)
    assert content.evaluation is not None
    body = replace(content.evaluation.row("head"), mask="body")
    content = replace(content, evaluation=replace(content.evaluation, rows=(body,)))
    page = Page(write_report(content, tmp_path).read_text("utf-8"))
    assert "in the body" in page.text
    assert "head" not in page.text.lower()
    assert "skull" not in page.text.lower()
    assert "Published" not in page.text


def test_undefined_figure_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    content = full_content(mr=None, mu_map=None, uncertainty=None)
    assert content.evaluation is not None
    row = replace(content.evaluation.row("head"), jaccard_bone=float("nan"))
    content = replace(content, evaluation=replace(content.evaluation, rows=(row,)))
    page = Page(write_report(content, tmp_path).read_text("utf-8"))
    assert "– is not defined: neither image holds bone in the mask" in page.text
    assert "nan" not in page.text.lower().split()


def test_mr_and_mu_map_on_other_grids_are_shown(tmp_path: Path) -> None:
    full = full_content()
    assert full.mr is not None
    assert full.mu_map is not None
    half = sitk.Shrink(full.mr.image, (2, 2, 2))[:, :, :12]
    content = bare_content(
        mr=full.mr.with_image(half),
        mu_map=full.mu_map.with_image(sitk.Shrink(full.mu_map.image, (2, 2, 2))),
    )
    write_report(content, tmp_path)
    with Image.open(tmp_path / "figures" / "mr.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    grey = (np.abs(pixels - (0x4A, 0x4F, 0x55)) <= 4).all(axis=-1)
    assert grey.mean() > 0.1  # where the MR did not reach


def test_tilt_is_said_only_when_there_is_one(tmp_path: Path, bare_page: Page) -> None:
    synthetic, _, _ = head_pair()
    image = sitk.Image(synthetic.image)
    image.SetDirection(_about_z(14.0).ravel().tolist())
    content = bare_content(synthetic=synthetic.with_image(image))
    page = Page(write_report(content, tmp_path).read_text("utf-8"))
    assert "up to 14° off" in page.text
    assert "° off" not in bare_page.text


def test_methods_name_what_was_done() -> None:
    evaluation = methods_paragraph(full_content())
    assert "evaluated with SynthCT 9.8.7" in evaluation
    assert "rigid transform" in evaluation
    assert "correct bias (shrink 4, levels [1, 2])" in evaluation
    network = {"wide": {"channels": [16, 32]}, "overlap": 0.123456, "version": "1", "note": "Said."}
    step = Step("synthesize", network)
    assert "order: synthesize (overlap 0.123)." in methods_paragraph(full_content(steps=(step,)))
    assert "carney-140" in evaluation
    assert "synthetic minus reference" in evaluation
    synthesis = methods_paragraph(full_content(kind=Kind.SYNTHESIS))
    assert "made with SynthCT 9.8.7, model atlas-fusion version 3." in synthesis
    assert methods_paragraph(bare_content()) == "A synthetic CT was made with SynthCT."


# What cannot be


def test_content_on_another_grid_is_refused() -> None:
    synthetic, reference, region = head_pair()
    shifted = sitk.Image(reference.image)
    shifted.SetOrigin((0.0, 0.0, 0.0))
    elsewhere = reference.with_image(shifted)
    for field in ("reference", "difference", "uncertainty", "coverage", "region", "scanned"):
        assert getattr(bare_content(**{field: reference}), field) is reference
        with pytest.raises(InputError, match="grid"):
            bare_content(**{field: elsewhere})
    assert region.grid.matches(synthetic.grid)


def test_content_in_another_unit_is_refused() -> None:
    synthetic, _, _ = head_pair()
    mu = hu_to_mu(synthetic)
    for field, wrong in (("synthetic", mu), ("reference", mu), ("mu_map", synthetic)):
        with pytest.raises(InputError, match="needs"):
            bare_content(**{field: wrong})
    assert bare_content(mu_map=mu).mu_map is mu
    assert synthetic.unit is Unit.HU


def test_evaluation_without_its_reference_is_refused() -> None:
    with pytest.raises(InputError, match="without its reference"):
        full_content(reference=None)


@pytest.mark.parametrize("obstacle", ["job", "job/figures", "job/report.html", "above"])
def test_failing_to_write_leaves_nothing(tmp_path: Path, obstacle: str) -> None:
    folder = tmp_path / "above" / "job"
    blocked = tmp_path / "above" if obstacle == "above" else tmp_path / "above" / obstacle
    blocked.parent.mkdir(parents=True, exist_ok=True)
    if obstacle == "job/report.html":
        (blocked / "in the way").mkdir(parents=True)
    else:
        blocked.write_text("in the way")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(bare_content(), folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_writing_twice_replaces(tmp_path: Path) -> None:
    write_report(bare_content(title="first"), tmp_path)
    out = write_report(bare_content(title="second"), tmp_path)
    assert "second" in out.read_text("utf-8")
    assert "first" not in Page(out.read_text("utf-8")).text.split("Summary")[0]


# The verdict

SOUND_FIGURES = MaskFigures(
    mask="head",
    voxels=1000,
    volume_ml=1.0,
    unscanned_voxels=0,
    mae_hu=90.0,
    rmse_hu=150.0,
    mse_hu2=22500.0,
    mean_error_hu=4.0,
    psnr_db=30.0,
    psnr_synthrad_db=30.0,
    ssim=0.9,
    ms_ssim=0.95,
    mssim_paper_2=0.95,
    pearson=0.9,
    normalised_mutual_information=1.3,
    jaccard_bone=0.75,
    dice_bone=0.86,
    mu_rmae_percent=7.0,
)
SOUND = Facts(
    bone_share=0.13,
    covered_share=1.0,
    compared_share=1.0,
    uncertainty_hu=60.0,
    has_reference=True,
    figures=SOUND_FIGURES,
    soft_tissue_mu_per_cm=0.098,
    registration=Registration(
        sitk.Transform(3, sitk.sitkIdentity),
        RegistrationKind.RIGID,
        Quality(0.4, 1.0, 0.0),
        1.0,
        True,
        50,
    ),
)


def _registered(**changes: Any) -> Registration:
    assert SOUND.registration is not None
    return replace(SOUND.registration, **changes)


def test_a_narrow_screen_shows_pictures_whole_until_one_is_chosen(tmp_path: Path) -> None:
    page = write_report(bare_content(), tmp_path).read_text("utf-8")
    style = page[page.index("<style>") : page.index("</style>")]
    narrow = style[style.index("@media screen and (max-width: 46rem)") :]
    wider = [
        r for r in re.findall(r"([^{}]*img) \{([^{}]*)\}", narrow) if "max-width: none" in r[1]
    ]
    assert [selector.split("*/")[-1].strip() for selector, _ in wider] == [".film:focus img"]
    assert (
        'class="film" tabindex="0"' in page
    )  # what has no place in the order of tabs has no focus


def test_nothing_suspicious_is_said_so_and_no_more() -> None:
    verdict = judge(SOUND)
    assert verdict.headline.level is Level.SOUND
    assert "Nothing suspicious was found" in verdict.headline.text
    assert "Look at the pictures" in verdict.headline.text
    assert {statement.level for statement in verdict.statements} == {Level.SOUND}
    words = " ".join(s.text for s in (verdict.headline, *verdict.statements)).lower()
    for claim in ("correct", "accurate", "safe", "diagnos", "clinical", "perfect result"):
        assert claim not in words


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"errors": 2}, Level.DOUBT, "found 2 errors"),
        ({"warnings": 1}, Level.CAUTION, "raised one warning"),
        ({"notes": 3}, Level.CAUTION, "made 3 remarks"),
        ({"bone_share": 0.004}, Level.DOUBT, "almost no bone: 0.4 %"),
        ({"covered_share": 0.97}, Level.CAUTION, "in 97 % of the head. Nothing is claimed"),
        ({"covered_share": 0.3}, Level.DOUBT, "in 30 % of the head. Nothing is claimed"),
        ({"compared_share": 0.6}, Level.CAUTION, "shows 60 % of the head"),
        ({"uncertainty_hu": 160.0}, Level.CAUTION, "it would be 128 HU in absolute value"),
        (
            {"uncertainty_hu": 180.0, "spread": Spread.STATED_ERROR},
            Level.CAUTION,
            "expects an absolute error of 127 HU on average (its map shows the standard deviation, "
            "± 180 HU, of a Laplace density of the error): more than",
        ),
        ({"soft_tissue_mu_per_cm": 0.108}, Level.CAUTION, "0.1080 1/cm on average, outside"),
        ({"soft_tissue_mu_per_cm": 0.05}, Level.CAUTION, "0.0500 1/cm on average, outside"),
        (
            {"pet": PetRow(900, 7.0, 2.0, 7.25, {5.0: 0.9, 10.0: 0.2, 15.0: 0.0}, "brain")},
            Level.CAUTION,
            "off by 7.2 % on average (simulated), more than the 5 %",
        ),
        ({"registration": _registered(converged=False)}, Level.DOUBT, "did not converge"),
        (
            {"registration": _registered(quality=Quality(0.01, 1, 0, ("They are unlike.",)))},
            Level.CAUTION,
            "looks suspicious: They are unlike.",
        ),
        (
            {"registration": _registered(fit=Fit(2.5, 0.0, 0.0, 9, True, ("It moved.",)))},
            Level.CAUTION,
            "looks suspicious: It moved.",
        ),
        (
            {"figures": replace(SOUND_FIGURES, mae_hu=130.0)},
            Level.CAUTION,
            "off by 130 on average in the head, and 4 HU too dense on balance: worse than in most",
        ),
        (
            {"figures": replace(SOUND_FIGURES, mae_hu=200.0, mean_error_hu=-60.0)},
            Level.DOUBT,
            "off by 200 on average in the head, and 60 HU too soft on balance: far worse than",
        ),
        (
            {"figures": replace(SOUND_FIGURES, jaccard_bone=0.6)},
            Level.CAUTION,
            "by 0.60 (Jaccard coefficient, 1 is perfect): worse than in most",
        ),
        (
            {"figures": replace(SOUND_FIGURES, jaccard_bone=0.5)},
            Level.DOUBT,
            "by 0.50 (Jaccard coefficient, 1 is perfect): far worse than",
        ),
        (
            {"figures": replace(SOUND_FIGURES, mu_rmae_percent=11.0)},
            Level.CAUTION,
            "off by 11.0 % on average in the head: worse than in most",
        ),
        (
            {"figures": replace(SOUND_FIGURES, mu_rmae_percent=14.0)},
            Level.DOUBT,
            "off by 14.0 % on average in the head: far worse than",
        ),
    ],
)
def test_each_reason_is_given_and_leads(changes: dict[str, Any], level: Level, words: str) -> None:
    verdict = judge(replace(SOUND, **changes))
    assert verdict.headline.level is level
    assert words in verdict.statements[0].text
    assert [s.level for s in verdict.statements].count(level) == 1
    assert not any(words in statement.text for statement in judge(SOUND).statements)
    start = {Level.DOUBT: "Do not rely on this result", Level.CAUTION: "Look before you use it"}
    assert verdict.headline.text.startswith(start[level])
    assert "the point below" in verdict.headline.text


@pytest.mark.parametrize(
    ("kind", "anatomy", "level", "words"),
    [
        (PetKind.DIFFERENCE, Anatomy.HEAD, Level.SOUND, "with it would be off by 2.0 % on average"),
        (
            PetKind.UNCERTAINTY,
            Anatomy.HEAD,
            Level.SOUND,
            "in the same direction, the worst case, a PET",
        ),
        (PetKind.DIFFERENCE, Anatomy.BODY, Level.NOTE, "No published limit is at hand"),
    ],
)
def test_effect_on_a_pet_is_told_by_its_kind(
    kind: PetKind, anatomy: Anatomy, level: Level, words: str
) -> None:
    row = PetRow(900, 1.0, 2.0, 2.0, {5.0: 0.1, 10.0: 0.02, 15.0: 0.0}, "brain")
    facts = replace(SOUND, anatomy=anatomy, pet=row, pet_kind=kind)
    found = [s for s in judge(facts).statements if "a PET of the brain" in s.text.replace("A", "a")]
    assert [s.level for s in found] == [level]
    assert words in found[0].text
    assert "2 % of its voxels by more than 10 %" in found[0].text


@pytest.mark.parametrize("spread", Spread)
def test_a_standard_deviation_is_not_held_against_absolute_errors(spread: Spread) -> None:
    """On the published error itself the verdict is the same, whatever density it is spread by."""
    densities = {Spread.STATED_ERROR: stats.laplace, Spread.ANSWERS: stats.norm}
    error, density = MAE_HEAD_HU.mean, densities[spread]
    sd = error * density.std() / density.expect(abs)
    assert spread.error_per_sd * sd == pytest.approx(error, rel=1e-6)
    facts = replace(SOUND, uncertainty_hu=sd, spread=spread)
    assert facts.expected_error_hu == pytest.approx(error, rel=1e-6)
    assert sd > MAE_HEAD_HU.mean + MAE_HEAD_HU.sd  # it would be a warning as it stands
    assert judge(facts).headline.level is Level.SOUND


def test_the_uncertainty_of_a_limb_is_not_held_against_heads() -> None:
    facts = Facts(anatomy=Anatomy.BODY, uncertainty_hu=300.0, spread=Spread.STATED_ERROR)
    (said,) = [s for s in judge(facts).statements if "Laplace" in s.text]
    assert said.level is Level.NOTE
    assert "No published figure" in said.text


@pytest.mark.parametrize(
    ("spread", "words"),
    [(Spread.STATED_ERROR, "0.71 of it"), (Spread.ANSWERS, "sources disagree")],
)
def test_the_picture_of_the_uncertainty_says_what_it_is_of(spread: Spread, words: str) -> None:
    content = replace(full_content(), spread=spread)
    (shown,) = [p for p in gallery_of(content).images if p.name == "uncertainty"]
    assert words in shown.caption


@pytest.mark.parametrize(
    ("kind", "level"), [(PetKind.DIFFERENCE, Level.CAUTION), (PetKind.UNCERTAINTY, Level.NOTE)]
)
def test_a_worst_case_is_not_held_against_a_limit_of_errors(kind: PetKind, level: Level) -> None:
    row = PetRow(900, 7.0, 2.0, 7.25, {5.0: 0.9, 10.0: 0.2, 15.0: 0.0}, "brain")
    (said,) = [
        s for s in judge(replace(SOUND, pet=row, pet_kind=kind)).statements if "5 %" in s.text
    ]
    assert said.level is level
    assert "more than the 5 %" in said.text


def test_reasons_add_up_the_most_serious_first() -> None:
    verdict = judge(replace(SOUND, errors=1, warnings=2, notes=1, covered_share=0.9))
    levels = [statement.level for statement in verdict.statements]
    assert levels == sorted(levels, reverse=True)
    assert verdict.headline.text.endswith("see the 3 points below.")


def test_without_a_reference_nothing_is_said_of_accuracy() -> None:
    facts = replace(
        SOUND, has_reference=False, figures=None, registration=None, compared_share=None
    )
    verdict = judge(facts)
    assert verdict.headline.level is Level.NOTE
    assert "nothing shows how accurate it is" in verdict.headline.text
    assert any("no reference CT of this person" in s.text for s in verdict.statements)
    assert not any("off by" in s.text for s in verdict.statements)
    assert any("spread by ± 60 HU" in s.text for s in verdict.statements)


def test_limb_is_not_measured_by_heads() -> None:
    figures = replace(SOUND_FIGURES, mask="body", mae_hu=500.0)
    verdict = judge(replace(SOUND, anatomy=Anatomy.BODY, figures=figures))
    assert verdict.headline.level is Level.NOTE
    text = " ".join(s.text for s in verdict.statements)
    assert "off by 500 on average in the body" in text
    assert "No published figure" in text
    assert "100.4" not in text


def test_undefined_figures_are_passed_over() -> None:
    figures = replace(SOUND_FIGURES, jaccard_bone=float("nan"), mu_rmae_percent=float("nan"))
    text = " ".join(s.text for s in judge(replace(SOUND, figures=figures)).statements)
    assert "off by 90" in text
    assert "nan" not in text
    assert "Jaccard" not in text


def test_deformable_registration_may_stop_at_its_last_iteration() -> None:
    registration = _registered(kind=RegistrationKind.DEFORMABLE, converged=False)
    assert judge(replace(SOUND, registration=registration)).headline.level is Level.SOUND


def test_facts_are_counted_in_the_region() -> None:
    hu = np.full((10, 10, 10), 30.0, np.float32)
    hu[:, :, :2] = 500.0  # a fifth is bone
    ct = volume(hu)
    half = np.zeros(hu.shape, bool)
    half[:5] = True
    quarter = half.copy()
    quarter[:, :5] = False
    content = ReportContent(
        title="t",
        kind=Kind.EVALUATION,
        synthetic=ct,
        reference=ct,
        region=ct.mask(half),
        coverage=ct.mask(quarter),
        scanned=ct.mask(~quarter),
        uncertainty=ct.with_array(np.where(quarter, 20.0, 900.0), role=Role.UNCERTAINTY),
        findings=(Finding(Severity.NOTE, "r", "MR", "m"), Finding(Severity.ERROR, "r", "MR", "m")),
        mu_table=mean_mu_by_tissue(ct, {"soft_tissue": ct.mask(hu < 300)}),
        convention="carney-120",
    )
    facts = facts_of(content)
    assert (facts.errors, facts.warnings, facts.notes) == (1, 0, 0)
    assert facts.bone_share == pytest.approx(0.2)
    assert facts.covered_share == pytest.approx(0.5)
    assert facts.compared_share == pytest.approx(0.5)
    assert facts.uncertainty_hu == pytest.approx(20.0)
    assert facts.soft_tissue_mu_per_cm == pytest.approx(9.6e-5 * 1030)
    assert facts.figures is None
    assert facts.has_reference


def test_facts_not_given_are_unknown() -> None:
    facts = facts_of(bare_content())
    assert facts.covered_share is None
    assert facts.compared_share is None
    assert facts.uncertainty_hu is None
    assert facts.soft_tissue_mu_per_cm is None
    assert facts.bone_share is not None
    assert not facts.has_reference


def test_facts_take_the_row_named_after_the_region() -> None:
    content = full_content()
    facts = facts_of(content)
    assert content.evaluation is not None
    assert facts.figures == content.evaluation.row("head")
    assert facts_of(replace(content, anatomy=Anatomy.BODY)).figures is None


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100 %"), (0.9996, "99.9 %"), (0.5, "50 %"), (0.0001, "0.1 %"), (0.0, "0 %")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.pack
def test_report_of_a_real_patient_is_small(data_pack: Path, tmp_path: Path) -> None:
    folder = data_pack / "sts" / "STS_014"
    ct = Volume(sitk.ReadImage(str(folder / "ct.nii.gz")), Role.CT, Unit.HU)
    mr = Volume(sitk.ReadImage(str(folder / "mr.nii.gz")), Role.MR, Unit.ARBITRARY)
    blurred = ct.with_image(sitk.DiscreteGaussian(sitk.Cast(ct.image, sitk.sitkFloat32), 2.0))
    body = ct.mask(ct.array > -500)
    content = ReportContent(
        title="STS_014",
        kind=Kind.EVALUATION,
        anatomy=Anatomy.BODY,
        synthetic=blurred,
        reference=ct,
        mr=mr,
        region=body,
        mu_map=hu_to_mu(blurred),
        evaluation=evaluate(ct, blurred, {"body": body}),
    )
    out = write_report(content, tmp_path)
    assert out.stat().st_size < 4 * 2**20
    page = Page(out.read_text("utf-8"))
    assert "Accuracy against the reference CT" in page.text
    assert len(page.of("img")) == 10
