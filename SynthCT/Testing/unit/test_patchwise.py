"""Patchwise synthesis: geometry, closed forms of small networks, memory, precision, refusals."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from small_models import card_content, small_settings, write_model

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import Cancelled, InputError, MissingModel, MissingPackage
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.imaging.grids import in_lps, isotropic_grid, resample, to_lps
from SynthCTLib.imaging.masks import head_mask
from SynthCTLib.networks import build_network
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.engines import EngineName, Precision, choose_engine, open_engine
from SynthCTLib.synthesis.patchwise import (
    Load,
    PatchwiseSettings,
    PatchwiseSynthesizer,
    lighter,
)
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.synthesis.synthesizer import Anatomy, ModelCard, Spread, Synthesis
from SynthCTLib.synthesis.working_view import Region, placed, view_of
from SynthCTLib.volume import Grid, Role, Step, Unit, Volume, sha256_of
from SynthCTLib.workflow.device import choose_device

EXACT = Machine(threads=1, engine="torch", precision="fp32")
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
AXIS_ORDERS = [
    "".join(letters)
    for axes in itertools.permutations(["LR", "PA", "SI"])
    for letters in itertools.product(*axes)
]
RIGHT_HANDED = [
    code
    for code in AXIS_ORDERS
    if np.linalg.det(
        np.reshape(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code), (3, 3))
    )
    > 0
]


@pytest.fixture(scope="module")
def head() -> Volume:
    """A real head, coarse: 3 mm."""
    mr = read_volume(resource("SampleData", "adult_t1_1.6mm_neck.nii.gz"), Role.MR)
    return resample(mr, isotropic_grid(mr.grid, 3.0))


@pytest.fixture(scope="module")
def coarse_head(head: Volume) -> Volume:
    """The same at 5 mm, where geometry is all that matters."""
    return resample(head, isotropic_grid(head.grid, 5.0))


class WithNetwork(PatchwiseSynthesizer):
    """The family with networks made in the test in place of those read from files."""

    def __init__(
        self, *networks: torch.nn.Module, machine: Machine = EXACT, **changes: Any
    ) -> None:
        names = [f"fold{n}.safetensors" for n in range(len(networks))]
        settings = small_settings(weights=names, network="none", network_settings={}, **changes)
        super().__init__(
            ModelCard.model_validate(card_content("in-memory", settings, {})),
            TypeAdapter(PatchwiseSettings).validate_python(settings),
            machine,
        )
        self.networks = dict(zip(names, networks, strict=True))

    def open_network(self, weights: str) -> torch.nn.Module:
        return self.networks[weights]


class Answer(torch.nn.Module):
    """A network that is a function of its patch."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def ramp(x: torch.Tensor, axis: int) -> torch.Tensor:
    """The index along an axis of the patch."""
    shape = [1] * 5
    shape[axis] = -1
    return torch.arange(x.shape[axis], dtype=torch.float32).reshape(shape).expand_as(x)


def steps_inside(values: np.ndarray, inside: np.ndarray, axis: int) -> np.ndarray:
    """Differences of neighbours along an axis, both inside."""
    both = np.minimum(np.moveaxis(inside, axis, 0)[1:], np.moveaxis(inside, axis, 0)[:-1])
    return np.diff(np.moveaxis(values, axis, 0), axis=0)[both]


IDENTITY = Answer(lambda x: x[:, :1])
STRAIGHT = {"scale": 1000.0, "offset": 0.0}  # HU is 1000 times the prepared MR
ONE_PATCH = {"patch": [96, 96, 96], "overlap": 0.0}


def synthesize(model: PatchwiseSynthesizer, mr: Volume, **options: Any) -> Synthesis:
    return model.synthesize({Role.MR: mr}, Progress(**options))


# Geometry


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "tiny", working_mm=5.0)
    write_model(
        folder,
        "tiny-folds",
        working_mm=5.0,
        weights=["a.safetensors", "b.safetensors"],
        mirror=["x"],
        axes="ras-xyz",
    )
    return folder


@pytest.mark.parametrize("name", ["tiny", "tiny-folds"])
def test_the_answer_is_the_same_in_all_24_axis_orders(
    coarse_head: Volume, models: Path, name: str
) -> None:
    machine = Machine(threads=1, models_dir=models, engine="torch", precision="fp32")
    model = open_model(name, machine)
    straight = model.synthesize({Role.MR: coarse_head}, Progress())
    assert np.unique(straight.volume.array).size > 1000
    assert (straight.uncertainty is None) == (name == "tiny")
    expected = to_lps(straight.volume).volume.array
    assert len(RIGHT_HANDED) == 24
    orders = RIGHT_HANDED if name == "tiny" else RIGHT_HANDED[::5]
    for code in orders:
        stored = coarse_head.with_image(sitk.DICOMOrient(coarse_head.image, code))
        made = model.synthesize({Role.MR: stored}, Progress())
        for part in (made.volume, made.coverage, made.uncertainty or made.volume):
            assert part.grid == stored.grid, code
        assert np.abs(to_lps(made.volume).volume.array - expected).max() < 0.05, code


@pytest.mark.parametrize("code", ["LPS", "SAR"])
def test_a_head_found_in_the_inputs_own_voxels_is_handed_on(
    coarse_head: Volume, head: Volume, models: Path, code: str
) -> None:
    model = open_model("tiny", Machine(threads=1, models_dir=models, engine="torch"))
    stored = coarse_head.with_image(sitk.DICOMOrient(coarse_head.image, code))
    found = model.synthesize({Role.MR: stored}, Progress()).found[Anatomy.HEAD]
    assert found.grid == stored.grid
    np.testing.assert_array_equal(found.array, head_mask(stored).array)
    # finer voxels than the network's 5 mm: found in them, and brought onto the network's
    fine = model.synthesize({Role.MR: head}, Progress()).found[Anatomy.HEAD]
    np.testing.assert_array_equal(fine.array, head_mask(head).array)
    view = view_of(head, Region.HEAD, 5.0, 12.0, 3.0, (32, 32, 32))
    litres = [
        np.count_nonzero(mask) * np.prod(grid.spacing_mm) / 1e6
        for mask, grid in ((fine.array, head.grid), (view.region, view.grid))
    ]
    assert litres[1] == pytest.approx(litres[0], rel=0.02)
    # coarser ones are interpolated first: it is another mask, and not handed on
    assert view_of(coarse_head, Region.HEAD, 3.0, 12.0, 3.0, (32, 32, 32)).found is None


def test_an_oblique_head_gives_the_same_answer_turned(coarse_head: Volume, models: Path) -> None:
    model = open_model(
        "tiny", Machine(threads=1, models_dir=models, engine="torch", precision="fp32")
    )
    straight = model.synthesize({Role.MR: coarse_head}, Progress())
    rotation = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3).GetMatrix(), (3, 3))
    image = sitk.Image(coarse_head.image)
    image.SetDirection((rotation @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    image.SetOrigin((rotation @ image.GetOrigin() + [5, -8, 11]).tolist())
    turned = model.synthesize({Role.MR: coarse_head.with_image(image)}, Progress())
    assert turned.volume.grid == Grid.of(image)
    assert np.abs(turned.volume.array - straight.volume.array).mean() < 0.5


@pytest.mark.parametrize(
    "window",
    [{"patch": [32, 32, 32]}, {"patch": [96, 96, 96]}, {"patch": [64, 160, 64], "fit": True}],
)
def test_an_identity_network_gives_the_prepared_mr_voxel_by_voxel(
    head: Volume, window: dict[str, Any]
) -> None:
    model = WithNetwork(IDENTITY, window=window, output=STRAIGHT, keep_margin_mm=0)
    made = synthesize(model, head)
    assert made.facts["canvas"][1] == 96  # not 160 where the window fits itself to the head
    assert made.facts["patch"][1] == min(window["patch"][1], 96)
    inside = head_mask(head).array > 0
    values = head.array[inside]
    low, high = np.percentile(values, (0, 99.5))
    expected = 1000 * np.clip((head.array - low) / (high - low), 0, 1.5)
    assert np.abs(made.volume.array - expected)[inside].max() < 0.05
    # One voxel beyond the mask is interpolated; further out there is air.
    near = sitk.BinaryDilate(head_mask(head).image, [1, 1, 1], sitk.sitkBox)
    assert (made.volume.array[sitk.GetArrayFromImage(near) == 0] == -1000).all()
    assert made.coverage.array.all()
    assert made.volume.unit == Unit.HU


def test_on_a_finer_uneven_grid_the_answer_stays_in_place(head: Volume) -> None:
    grid = Grid(
        (150, 120, 70),
        (1.3, 1.7, 3.7),
        tuple(head.grid.centre_mm - [97, 102, 129]),  # type: ignore[arg-type]
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    smooth = head.with_image(sitk.DiscreteGaussian(sitk.Cast(head.image, sitk.sitkFloat32), 9.0))
    mr = resample(smooth, grid)
    made = synthesize(WithNetwork(IDENTITY, output=STRAIGHT), mr)
    assert made.volume.grid == grid
    inside = sitk.GetArrayFromImage(sitk.BinaryErode(head_mask(mr).image, [3, 3, 2])) > 0
    assert inside.sum() > 10000
    slope, offset = np.polyfit(mr.array[inside], made.volume.array[inside], 1)
    off = made.volume.array - (slope * mr.array + offset)
    shifted = np.roll(made.volume.array, 1, axis=2) - (slope * mr.array + offset)
    assert np.abs(off[inside]).mean() < 8
    assert np.abs(off[inside]).mean() < 0.5 * np.abs(shifted[inside]).mean()


def test_what_tilted_slices_did_not_scan_is_not_covered_and_not_invented(head: Volume) -> None:
    """As the reader of a tilted series records it: here the lower half was not scanned."""
    lps = to_lps(head).volume
    matrix = lps.grid.index_to_world
    half = lps.grid.size[2] // 2
    matrix[:3, 3] = (matrix @ [0, 0, half, 1])[:3]
    settings = {
        "scanned_size": [*lps.grid.size[:2], lps.grid.size[2] - half],
        "scanned_index_to_world": matrix.tolist(),
    }
    mr = replace(lps, provenance=lps.provenance.with_step(Step("untilt", settings)))
    view = view_of(mr, Region.HEAD, 3.0, 0.0, 0.0, (32, 32, 32))
    assert 0.2 < view.scanned[view.region].mean() < 0.8
    folds = [Answer(lambda x, hu=hu: torch.full_like(x, hu)) for hu in (0.0, 50.0)]
    made = synthesize(WithNetwork(*folds), mr)
    assert made.uncertainty is not None
    assert (made.coverage.array[half:] == 1).all()
    assert (made.coverage.array[:half] == 0).all()
    assert (made.volume.array[:half] == -1000).all()
    assert (made.uncertainty.array[:half] == 0).all()
    assert (made.volume.array[half:] > 0).any()


@pytest.mark.parametrize("code", AXIS_ORDERS)
def test_in_lps_is_the_order_of_to_lps(code: str) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    image = sitk.DICOMOrient(sitk.GetImageFromArray(array), code)
    stored = sitk.GetArrayFromImage(image)
    volume = Volume(image, Role.MR, Unit.ARBITRARY)
    np.testing.assert_array_equal(in_lps(stored, volume.grid), to_lps(volume).volume.array)


def test_a_block_beyond_an_array_is_zero_there() -> None:
    values = np.ones((4, 5, 6), np.float32)
    block = placed(values, (-2, 3, 1), (4, 4, 4))
    assert block.sum() == 2 * 2 * 4
    assert (block[2:, :2] == 1).all()


def test_a_view_pads_what_was_not_scanned_and_says_so(head: Volume) -> None:
    view = view_of(head, Region.HEAD, 3.0, 12.0, 3.0, (32, 32, 96))
    assert all(side % 16 == 0 for side in view.mr.shape)
    assert view.mr.shape[2] >= 96
    assert not view.scanned.all()
    assert (view.mr[~view.scanned] == 0).all()
    assert (view.kept | ~view.region).all()
    ones = view.onto_input(np.ones(view.mr.shape, np.float32), 0.0, cubic=False)
    assert ones.shape == head.array.shape
    kept = view.onto_input(view.kept.astype(np.float32), 0.0, cubic=False)
    np.testing.assert_array_equal(ones[kept > 0], 1)
    near = sitk.BinaryDilate(
        sitk.GetImageFromArray((kept > 0).astype(np.uint8)), [1] * 3, sitk.sitkBox
    )
    np.testing.assert_array_equal(ones[sitk.GetArrayFromImage(near) == 0], 0)
    field = view_of(head, Region.FIELD, 3.0, 0.0, 0.0, (32, 32, 32))
    assert field.region.sum() == head.array.size


def test_axes_of_the_network_are_right_anterior_superior_where_the_card_says(head: Volume) -> None:
    ras = to_lps(head).volume
    inside = head_mask(ras).array > 0
    # Array axis (z, y, x) in the body, and whether it runs the other way.
    for axis, (body_axis, sign) in {2: (2, -1), 3: (1, -1), 4: (0, 1)}.items():
        network = Answer(lambda x, axis=axis: ramp(x, axis))
        made = synthesize(
            WithNetwork(network, window=ONE_PATCH, output={"low": 0.0}, axes="ras-xyz"), ras
        )
        steps = steps_inside(made.volume.array, inside, body_axis)
        np.testing.assert_allclose(steps, sign, atol=1e-3)


# Passes and uncertainty


def test_folds_are_averaged_and_their_spread_is_the_sample_deviation(head: Volume) -> None:
    folds = [Answer(lambda x, hu=hu: torch.full_like(x, hu)) for hu in (0.0, 30.0, 90.0)]
    model = WithNetwork(*folds, output={"spread_scale": 2.0}, keep_margin_mm=6.0)
    made = synthesize(model, head)
    inside = head_mask(head).array > 0
    assert made.uncertainty is not None
    np.testing.assert_allclose(made.volume.array[inside], 40.0, atol=1e-3)
    np.testing.assert_allclose(
        made.uncertainty.array[inside], 2 * np.std([0, 30, 90], ddof=1), rtol=1e-5
    )
    assert made.uncertainty.unit == Unit.HU
    assert made.spread is Spread.ANSWERS
    assert len(made.facts["passes"]) == 3


def stating(hu: float, error_hu: float) -> Answer:
    """A network that answers one number everywhere, and one error."""
    return Answer(
        lambda x: torch.cat(
            [torch.full_like(x, hu), torch.full_like(x, float(np.log(error_hu / 1000)))], 1
        )
    )


@pytest.mark.parametrize("folds", [[(40.0, 50.0)], [(0.0, 30.0), (90.0, 60.0)]])
def test_the_stated_error_and_the_spread_of_the_folds_add_as_variances(
    head: Volume, folds: list[tuple[float, float]]
) -> None:
    """A Laplace density of scale b has the variance 2 b^2."""
    model = WithNetwork(*(stating(*f) for f in folds), output={"stated_error": True})
    made = synthesize(model, head)
    inside = head_mask(head).array > 0
    between = np.var([hu for hu, _ in folds], ddof=1) if len(folds) > 1 else 0.0
    within = np.mean([2 * error**2 for _, error in folds])
    assert made.uncertainty is not None
    np.testing.assert_allclose(
        np.median(made.uncertainty.array[inside]), np.sqrt(between + within), rtol=1e-4
    )
    assert made.spread is Spread.STATED_ERROR
    np.testing.assert_allclose(
        np.median(made.volume.array[inside]), np.mean([hu for hu, _ in folds]), atol=1e-3
    )


def test_a_network_that_states_no_error_is_refused_where_its_card_says_it_does(
    head: Volume,
) -> None:
    with pytest.raises(MissingModel, match="correct stated_error"):
        synthesize(WithNetwork(IDENTITY, output={"stated_error": True}), head)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_mirrored_pass_is_mirrored_back(head: Volume, axis: str) -> None:
    """A ramp and its mirror image: the mean is level, the spread grows from the middle."""
    array_axis = {"z": 2, "y": 3, "x": 4}[axis]

    model = WithNetwork(
        Answer(lambda x: ramp(x, array_axis)),
        window=ONE_PATCH,
        output={"low": 0.0},
        mirror=[axis],
        keep_margin_mm=6.0,
    )
    made = synthesize(model, head)
    inside = to_lps(head_mask(head)).volume.array > 0
    assert made.uncertainty is not None
    mean = to_lps(made.volume).volume.array
    spread = to_lps(made.uncertainty).volume.array
    np.testing.assert_allclose(mean[inside], (96 - 1) / 2, atol=1e-3)
    # The two planes in the middle have the same spread: there the step is zero.
    steps = np.abs(steps_inside(spread, inside, array_axis - 2))
    steps = steps[steps > 1e-3]
    np.testing.assert_allclose(steps, np.sqrt(2), atol=1e-3)


def test_all_combinations_of_mirrors_are_passes() -> None:
    model = WithNetwork(IDENTITY, IDENTITY, mirror=["x", "y", "x"])
    mirrored = [p.mirrored for p in model.passes()]
    assert mirrored == [(), ("x",), ("y",), ("x", "y")] * 2


# Networks with a coarse view of the whole


class Coarse(torch.nn.Module):
    """Patch minus the coarse view at the same place: wrong wherever a crop is not."""

    context_pooling = 4

    def context(self, volume: torch.Tensor) -> torch.Tensor:
        return 2 * torch.nn.functional.avg_pool3d(volume, self.context_pooling)

    def fine(self, patch: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        fine = features
        for axis in (2, 3, 4):
            fine = fine.repeat_interleave(self.context_pooling, dim=axis)
        return patch - fine


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize("mirror", [[], ["x", "z"]])
def test_features_of_the_whole_are_cropped_to_where_the_patch_lies(
    head: Volume, engine: str, mirror: list[str]
) -> None:
    machine = Machine(threads=1, engine=engine, precision="fp32")

    def answer(patch: list[int], overlap: float) -> Synthesis:
        model = WithNetwork(
            Coarse(),
            machine=machine,
            window={"patch": patch, "overlap": overlap},
            output=STRAIGHT,
            mirror=mirror,
        )
        return synthesize(model, head)

    parts = answer([48, 32, 48], 0.4)
    assert parts.facts["engine"] == engine
    assert parts.facts["patches"] > 4
    whole = answer(parts.facts["canvas"], 0.0)
    assert whole.facts["patches"] == 1
    assert whole.volume.array.std() > 50
    np.testing.assert_allclose(parts.volume.array, whole.volume.array, atol=0.05)


# Memory


class Limited(torch.nn.Module):
    """A network that needs more memory than there is for more than so many voxels at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > self.most:
            raise torch.OutOfMemoryError("the test's device is full")
        return x


def test_too_little_memory_is_said_and_recorded_and_costs_only_time(head: Volume) -> None:
    plenty = synthesize(WithNetwork(IDENTITY, output=STRAIGHT), head)
    assert plenty.facts["fallbacks"] == []
    tight = WithNetwork(
        Limited(32**3), window={"patch": [64, 64, 64], "overlap": 0.25}, output=STRAIGHT
    )
    progress = Progress()
    made = tight.synthesize({Role.MR: head}, progress)
    assert made.facts["patch"] == [32, 32, 32]
    assert len(made.facts["fallbacks"]) == 1
    assert "64 x 64 x 64" in made.facts["fallbacks"][0]
    assert list(progress.notes) == made.facts["fallbacks"]
    np.testing.assert_allclose(made.volume.array, plenty.volume.array, atol=0.05)


def test_without_memory_for_the_smallest_patch_it_says_so(head: Volume) -> None:
    with pytest.raises(InputError, match="memory does not suffice"):
        synthesize(WithNetwork(Limited(1000)), head)


def test_another_error_of_the_network_is_not_taken_for_a_lack_of_memory(head: Volume) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        synthesize(WithNetwork(Answer(broken)), head)


def test_loads_become_lighter_by_batch_then_patch_then_device() -> None:
    load: Load | None = Load("cuda:0", (128, 112, 32), 4)
    steps = []
    while load is not None:
        steps.append((load.device, load.patch, load.batch))
        load = lighter(load, Load("cuda:0", (128, 112, 32), 4))
    assert steps == [
        ("cuda:0", (128, 112, 32), 4),
        ("cuda:0", (128, 112, 32), 2),
        ("cuda:0", (128, 112, 32), 1),
        ("cuda:0", (64, 64, 32), 1),
        ("cuda:0", (32, 32, 32), 1),
        ("cpu", (128, 112, 32), 1),
        ("cpu", (64, 64, 32), 1),
        ("cpu", (32, 32, 32), 1),
    ]


def test_noise_over_a_clean_background_is_said_and_recorded(head: Volume) -> None:
    linear = Answer(lambda x: x[:, :1])
    model = WithNetwork(linear, preparation={"method": "histogram", "noise": 0.01}, output=STRAIGHT)
    inside = head_mask(head).array > 0
    for background, said in ((0.0, True), (30.0, False)):
        progress = Progress()
        mr = head.with_array(np.where(inside, head.array, np.float32(background)))
        made = model.synthesize({Role.MR: mr}, progress)
        assert any("background of the image is clean" in note for note in progress.notes) == said
        assert (made.facts["noise_laid_over"] > 0) == said


# Engines and precision


def test_bf16_is_taken_where_it_changes_little_and_refused_where_it_changes_much(
    head: Volume,
) -> None:
    linear = torch.nn.Conv3d(1, 1, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.zero_()
    quick = Machine(threads=1, engine="torch", precision="bf16")
    near = synthesize(WithNetwork(linear, machine=quick, output={"scale": 200.0}), head)
    assert near.facts["precision"] == "bf16"
    assert 0 < near.facts["precision_change_hu"] <= 2
    progress = Progress()
    model = WithNetwork(linear, machine=quick, output={"scale": 5000.0, "high": 10000.0})
    far = model.synthesize({Role.MR: head}, progress)
    assert far.facts["precision"] == "fp32"
    assert far.facts["precision_change_hu"] > 2
    assert "computed in fp32" in progress.notes[0]


def test_a_precision_that_overflows_is_refused(head: Volume) -> None:
    def overflows(x: torch.Tensor) -> torch.Tensor:
        low = torch.is_autocast_enabled("cpu")
        return x * float("nan") if low else x

    machine = Machine(threads=1, engine="torch", precision="fp16")
    made = synthesize(WithNetwork(Answer(overflows), machine=machine, output=STRAIGHT), head)
    assert made.facts["precision"] == "fp32"
    assert made.facts["precision_change_hu"] is None


def test_values_that_are_not_numbers_are_refused(head: Volume) -> None:
    with pytest.raises(InputError, match="not numbers"):
        synthesize(WithNetwork(Answer(lambda x: x / 0 * 0)), head)


@needs_openvino
@pytest.mark.parametrize("name", ["tiny", "tiny-folds"])
def test_torch_and_openvino_agree(coarse_head: Volume, models: Path, name: str) -> None:
    torches, openvinos = (
        open_model(
            name, Machine(threads=1, models_dir=models, engine=engine, precision="fp32")
        ).synthesize({Role.MR: coarse_head}, Progress())
        for engine in ("torch", "openvino")
    )
    assert openvinos.facts["engine"] == "openvino"
    difference = np.abs(torches.volume.array - openvinos.volume.array)
    assert difference.max() < 1.0
    assert difference.mean() < 0.05
    assert torches.volume.array.std() > 100


def baked(x: torch.Tensor) -> torch.Tensor:
    """A ramp whose length a trace keeps as a constant."""
    return x[:, :1] + torch.arange(int(x.shape[4]), dtype=torch.float32)


@needs_openvino
@pytest.mark.parametrize("shape", [(32, 48, 32), (96, 80, 112)])
@pytest.mark.parametrize("kind", ["paper 1", "plain", "baked"])
def test_openvino_computes_any_shape_of_patch_as_torch_does(
    kind: str, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(1)
    network: torch.nn.Module = Answer(baked)
    if kind != "baked":
        settings = {"channels": [2, 3, 4, 4, 6], "residual_units": 2 if kind == "paper 1" else 0}
        network = build_network("shuffle_unet", settings)
    patches = np.random.default_rng(0).normal(size=(2, 1, *shape)).astype(np.float32)
    answers = []
    for name in (EngineName.TORCH, EngineName.OPENVINO):
        engine = open_engine(name, network, "cpu", Precision.FP32, 1)
        engine.begin(patches[0])
        answers.append(engine.predict(patches, [(0, 0, 0), (0, 0, 0)]))
    assert answers[1].shape == (2, 1, *shape)
    np.testing.assert_allclose(answers[1], answers[0], atol=2e-3 * np.abs(answers[0]).max())


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_both_views_of_the_head_network_are_computed_where_the_patch_lies(name: str) -> None:
    torch.manual_seed(1)
    network = build_network("two_view_unet", {"fine": [4, 4, 8], "wide": [2, 4, 4, 4]}).eval()
    volume = np.random.default_rng(0).uniform(size=(2, 80, 112, 96)).astype(np.float32)
    corner, sides = (8, 16, 24), (48, 64, 32)
    block = tuple(slice(c, c + s) for c, s in zip(corner, sides, strict=True))
    quarter = tuple(slice(b.start // 4, b.stop // 4) for b in block)
    patch = volume[(slice(None), *block)][np.newaxis]
    with torch.inference_mode():
        features = network.context(torch.from_numpy(volume)[None])
        expected = network.fine(torch.from_numpy(patch), features[(..., *quarter)]).numpy()
    engine = open_engine(EngineName(name), network, "cpu", Precision.FP32, 1)
    engine.begin(volume)
    np.testing.assert_allclose(
        engine.predict(patch, [corner]), expected, atol=2e-3 * np.abs(expected).max()
    )
    elsewhere = engine.predict(patch, [(32, 48, 64)])
    assert np.abs(elsewhere - expected).max() > 1e-2 * np.abs(expected).max()


@needs_openvino
def test_openvino_is_chosen_on_a_cpu_alone() -> None:
    assert choose_engine(EngineName.AUTO, "cpu") == EngineName.OPENVINO
    assert choose_engine(EngineName.AUTO, "cuda:0") == EngineName.TORCH
    with pytest.raises(InputError, match="device is cuda:0"):
        choose_engine(EngineName.OPENVINO, "cuda:0")


def test_an_absent_openvino_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_engine(EngineName.AUTO, "cpu") == EngineName.TORCH
    with pytest.raises(MissingPackage, match="pip install"):
        choose_engine(EngineName.OPENVINO, "cpu")


@needs_openvino
def test_a_network_that_openvino_cannot_read_is_computed_by_torch_and_said(head: Volume) -> None:
    odd = Answer(lambda x: torch.special.bessel_j0(x[:, :1]))
    progress = Progress()
    model = WithNetwork(odd, machine=Machine(threads=1, precision="fp32"), output=STRAIGHT)
    made = model.synthesize({Role.MR: head}, progress)
    assert made.facts["engine"] == "torch"
    assert "computing with torch" in progress.notes[0]
    with pytest.raises(InputError, match="choose the engine torch"):
        synthesize(WithNetwork(odd, machine=Machine(engine="openvino", precision="fp32")), head)


# The protocol


def test_the_input_is_not_changed_and_the_steps_are_told(coarse_head: Volume, models: Path) -> None:
    before = sitk.GetArrayFromImage(coarse_head.image)
    made = open_model("tiny", Machine(threads=1, models_dir=models)).synthesize(
        {Role.MR: coarse_head}, Progress()
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(coarse_head.image), before)
    step = made.volume.provenance.steps[-1]
    assert step.name == "synthesize"
    assert step.settings["model"] == "tiny"
    assert step.settings["window"]["patch"] == (32, 48, 32)


def test_a_stop_is_obeyed_between_patches(head: Volume) -> None:
    events: list[ProgressEvent] = []
    model = WithNetwork(IDENTITY, window={"patch": [32, 32, 32]})
    with pytest.raises(Cancelled):
        synthesize(
            model,
            head,
            listener=events.append,
            is_cancelled=lambda: any("patch 3" in e.message for e in events),
        )
    assert not any("patch 5" in e.message for e in events)


def test_without_a_head_there_is_nothing_to_predict() -> None:
    empty = Volume(sitk.Image(20, 20, 20, sitk.sitkFloat32), Role.MR, Unit.ARBITRARY)
    with pytest.raises(InputError):
        synthesize(WithNetwork(IDENTITY), empty)


def test_a_run_uses_an_own_model_and_records_how_it_was_computed(
    coarse_head: Volume, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(coarse_head, tmp_path / "t1.nii.gz")
    run = ["run", "--mr", str(tmp_path / "t1.nii.gz"), "-o", str(tmp_path / "out"), "--quiet"]
    own = ["--model", "tiny-folds", "--models", str(models), "--no-bias-correction"]
    assert run_command([*run, *own, "--engine", "abacus"]) == 2
    assert "engine" in capsys.readouterr().err
    assert not (tmp_path / "out" / "result.json").exists()
    code = run_command([*run, *own, "--engine", "torch", "--precision", "fp32", "--threads", "1"])
    assert code == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["model"] == "tiny-folds"
    assert (result["facts"]["engine"], result["facts"]["precision"]) == ("torch", "fp32")
    assert len(result["facts"]["passes"]) == 4
    assert result["outputs"]["ct_uncertainty"]["path"] == "ct_uncertainty.nii.gz"
    assert result["facts"]["uncertainty"].startswith("standard deviation, ")


def test_a_device_that_is_not_there_is_not_replaced() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has Apple's GPU")
    with pytest.raises(InputError, match="mps is not there"):
        choose_device("mps", Progress())


# Cards and weights


def changed_card(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "card.yaml"
    card = yaml.safe_load(path.read_text())
    change(card)
    path.write_text(yaml.safe_dump(card))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(colour="red"), "colour"),
        (lambda s: s.update(network="no_such"), "no_such"),
        (lambda s: s["network_settings"].update(channels=[2, 3]), "do not fit"),
        (lambda s: s["network_settings"].update(in_channels=2), "2 channels"),
        (lambda s: s["window"].update(patch=[20, 20, 20]), "multiples of 16"),
        (lambda s: s.update(weights=["other.safetensors"]), "SHA-256"),
        (lambda s: s.update(weights=[]), "weights"),
        (lambda s: s.update(preparation={"method": "z-score"}), "method"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    head: Volume, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    folder = write_model(tmp_path, "tiny")
    changed_card(folder, lambda card: change(card["architecture"]["settings"]))
    with pytest.raises(MissingModel, match=words):
        synthesize(open_model("tiny", Machine(models_dir=tmp_path)), head)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["truncated", "not a number"])
def test_damaged_weights_are_refused(head: Volume, tmp_path: Path, damage: str) -> None:
    path = write_model(tmp_path, "tiny") / "weights.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    else:
        state = load_file(path)
        next(iter(state.values())).view(-1)[0] = float("nan")
        save_file(state, path)
    with pytest.raises(MissingModel, match="SHA-256"):
        open_model("tiny", Machine(models_dir=tmp_path))
    changed_card(path.parent, lambda card: card.update(files={path.name: sha256_of(path)}))
    with pytest.raises(MissingModel, match=r"cannot be read|not numbers"):
        synthesize(open_model("tiny", Machine(models_dir=tmp_path)), head)  # type: ignore[arg-type]
