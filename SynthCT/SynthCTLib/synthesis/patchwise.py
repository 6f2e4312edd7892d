"""Patchwise synthesis: a 3D network slides over the MR.

The MR is brought onto a grid of the network's own (LPS, 1 mm), cut out around the head, prepared
as in training, and predicted patch by patch with Gaussian weights (Paper 1, section 3.3). The
answer is resampled onto exactly the grid of the input. Several sets of weights (folds) and mirrored
passes are averaged. The uncertainty is their spread and, of a network that states its own error,
that error.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from SynthCTLib.errors import InputError, MissingModel, MissingPackage
from SynthCTLib.imaging.grids import scanned_field
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.engines import (
    Engine,
    EngineName,
    NotConvertible,
    OutOfMemory,
    Precision,
    choose_engine,
    choose_precision,
    open_engine,
)
from SynthCTLib.synthesis.preparation import Preparation, missing_noise, prepare
from SynthCTLib.synthesis.registry import Machine
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Anatomy, ModelCard, Spread, Synthesis, input_of
from SynthCTLib.synthesis.weights import load_weights, network_of
from SynthCTLib.synthesis.window import SMALLEST_SIDE, Corner, Shape, Tiling, Window, fitted, slide
from SynthCTLib.synthesis.working_view import Region, WorkingView, view_of
from SynthCTLib.volume import AIR_HU, Role, Step, Unit, Volume

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# The lower precision is taken where it changes the CT of the head by less than this in the mean.
PRECISION_LIMIT_HU = 2.0
STATED_UNIT_HU = 1000.0
LOG_ERROR_RANGE = (-7.0, 1.0)  # of the stated error: 0.9 to 2700 HU, as in training
AXES = "zyx"
ANATOMY = {Region.HEAD: Anatomy.HEAD, Region.BODY: Anatomy.BODY}


@dataclass(frozen=True)
class Output:
    """From the network's number y to HU: scale * y + offset, kept between low and high.

    ``outside`` is written where there is no head or body, or nothing was scanned.
    ``stated_error``: a second channel holds log(b / 1000 HU), b the scale of a Laplace density of
    the error (its expected absolute value, Kendall and Gal, NeurIPS 2017). ``spread_scale``: factor
    from the standard deviation to the uncertainty given out.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    scale: float = 1.0
    offset: float = 0.0
    low: float = AIR_HU
    high: float = 3000.0
    outside: float = AIR_HU
    stated_error: bool = False
    spread_scale: Annotated[float, Field(gt=0)] = 1.0

    @property
    def channels(self) -> int:
        """How many channels of the network are read."""
        return 2 if self.stated_error else 1


@dataclass(frozen=True)
class PatchwiseSettings:
    """What the model card states.

    ``weights``: safetensors files, one for each fold; the card's ``files`` holds their hashes.
    ``window`` is in the network's array order: z, y, x with x to the left and y to posterior
    (``lps-zyx``), or x, y, z with x to the right and y to anterior (``ras-xyz``). ``mirror``: axes
    (x, y, z) along which the head is also predicted mirrored. ``region``: what is cut out and kept,
    with ``crop_margin_mm`` around it for the network to see and ``keep_margin_mm`` in the answer.
    ``space``: the input's ``own``, or ``mni``, heads brought affinely onto a template.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    network: str
    weights: Annotated[tuple[str, ...], Field(min_length=1)]
    window: Window
    network_settings: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation = field(default_factory=Preparation)
    output: Output = field(default_factory=Output)
    axes: Literal["lps-zyx", "ras-xyz"] = "lps-zyx"
    mirror: tuple[Literal["x", "y", "z"], ...] = ()
    region: Region = Region.HEAD
    working_mm: Annotated[float, Field(gt=0)] = 1.0
    crop_margin_mm: Annotated[float, Field(ge=0)] = 12.0
    keep_margin_mm: Annotated[float, Field(ge=0)] = 3.0
    space: Literal["own", "mni"] = "own"

    def __post_init__(self) -> None:
        check_space(self.space, self.preparation)
        if self.space == "mni" and (self.axes, self.region) != ("lps-zyx", Region.HEAD):
            raise ValueError("the space mni takes heads in the axes lps-zyx alone")


def check_space(space: str, preparation: Preparation) -> None:
    """Raise ValueError where a preparation needs to know the brain and the space does not."""
    if preparation.method == "brain" and space != "mni":
        raise ValueError("the preparation brain needs the space mni, which says where it is")


@dataclass(frozen=True)
class Pass:
    """One prediction of the whole: a fold, and the axes (of z, y, x) along which it is mirrored."""

    weights: str
    mirrored: tuple[str, ...]


@dataclass(frozen=True)
class Load:
    """How much is computed at once, and where."""

    device: str
    patch: Shape
    batch: int


def lighter(load: Load, full: Load) -> Load | None:
    """The next lighter load: half the batch, then half the patch, then the CPU; None at the end."""
    if load.batch > 1:
        return Load(load.device, load.patch, load.batch // 2)
    z, y, x = (max(min(side, SMALLEST_SIDE), -(-side // 32) * 16) for side in load.patch)
    if (z, y, x) != load.patch:
        return Load(load.device, (z, y, x), 1)
    return Load("cpu", full.patch, 1) if load.device != "cpu" else None


class PatchwiseSynthesizer:
    """Pseudo-CT of an MR by a network that slides over it."""

    def __init__(self, card: ModelCard, settings: PatchwiseSettings, machine: Machine) -> None:
        self.card = card
        self.settings = settings
        self.machine = machine
        self.engine_name = choose_engine(EngineName(machine.engine), machine.device)

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        """Predict the CT.

        Returns the CT on the MR's grid (HU, -1000 outside the head), the coverage (where the MR was
        scanned) and the uncertainty: a standard deviation in HU, the root of the variance between
        the passes plus that which the network states (twice b squared, for a Laplace density); None
        of a single pass of a network that states none. Raises InputError when there is no head, or
        no memory for the smallest patch.
        """
        settings = self.settings
        source = input_of(inputs, self.card.task.input_role, self.card)
        progress.stage("Finding the head", 0.08)
        patch = settings.window.least_canvas
        aligning = 0.3 if settings.space == "mni" else 0.0
        if settings.space == "mni":
            from SynthCTLib.synthesis.template import template_view

            work = template_view(
                source,
                settings.working_mm,
                settings.keep_margin_mm,
                patch,
                self.machine.threads,
                progress.within("Onto the template", aligning),
            )
        else:
            work = view_of(
                source,
                settings.region,
                settings.working_mm,
                settings.crop_margin_mm,
                settings.keep_margin_mm,
                patch if settings.axes == "lps-zyx" else patch[::-1],
            )
        progress.stage("Preparing", 0.04)
        noise = missing_noise(work.mr, work.scanned, work.region, settings.preparation)
        if noise:
            progress.note(
                f"The background of the image is clean: noise of {noise:.3g} is laid "
                f"over it, as model {self.card.name} was trained with."
            )
        canvas = prepare(work.mr, work.scanned, work.region, settings.preparation, brain=work.brain)
        computed = self._compute(
            self._turned(canvas),
            self._turned(work.region),
            self._turned(work.kept),
            progress.within("Predicting", 0.75 - aligning),
        )
        progress.stage("Back onto the grid of the MR", 0.13)
        told = {"noise_laid_over": noise} if settings.preparation.noise else {}
        computed = replace(computed, facts={**computed.facts, **told})
        return self._answer(source, work, computed, progress)

    def _turned(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view in the axes of the network, of an array in those of the body; and the way back."""
        if self.settings.axes == "lps-zyx":
            return array
        flipped = array[..., ::-1, ::-1]  # y and x: LPS to RAS
        lead = tuple(range(array.ndim - 3))
        return flipped.transpose(*lead, array.ndim - 1, array.ndim - 2, array.ndim - 3)

    def _turned_back(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.settings.axes == "lps-zyx":
            return array
        return array.transpose(2, 1, 0)[:, ::-1, ::-1]

    def _compute(self, canvas: Array, region: Mask, kept: Mask, progress: Progress) -> _Computed:
        """All passes, with less at once each time that the memory does not suffice."""
        window = self.settings.window
        batch = 1 if self.machine.device == "cpu" else window.batch
        load = full = Load(self.machine.device, window.patch, batch)
        engine = self.engine_name
        said: list[str] = []
        while True:
            try:
                run = _Run(self, canvas, region, kept, load, engine, said)
                return run.all_passes(progress)
            except OutOfMemory as error:
                less = lighter(load, full)
                if less is None:
                    raise InputError(
                        f"The memory does not suffice for model {self.card.name}, not even for "
                        f"one patch of {_size(load.patch)} voxels: close other programs, or take "
                        "another model."
                    ) from error
                said.append(
                    f"The memory of {load.device} did not suffice for {load.batch} patches of "
                    f"{_size(load.patch)} voxels at once: going on with {less.batch} of "
                    f"{_size(less.patch)} on {less.device}."
                )
                load = less
            except NotConvertible as error:
                if self.machine.engine != EngineName.AUTO:
                    raise InputError(
                        f"{error}: choose the engine torch for model {self.card.name}."
                    ) from error
                said.append(f"{error}: computing with torch.")
                engine = EngineName.TORCH
            progress.note(said[-1])

    def passes(self) -> tuple[Pass, ...]:
        """All combinations of folds and mirrors."""
        mirrors: list[tuple[str, ...]] = [()]
        for axis in dict.fromkeys(self.settings.mirror):
            mirrors += [(*mirror, axis) for mirror in mirrors]
        return tuple(Pass(w, m) for w in self.settings.weights for m in mirrors)

    def open_network(self, weights: str) -> torch.nn.Module:
        """The network with the weights of one fold, float32 on the CPU."""
        settings = self.settings
        network = network_of(self.card.name, settings.network, settings.network_settings)
        load_weights(network, self.card.file(weights), self.card.name)
        return network

    def _answer(
        self, source: Volume, work: WorkingView, computed: _Computed, progress: Progress
    ) -> Synthesis:
        step = Step(
            "synthesize",
            {"model": self.card.name, "version": self.card.version, **asdict(self.settings)},
        )
        scanned = scanned_field(source, source.grid).array
        beyond = None if scanned.all() else scanned == 0
        outside = self.settings.output.outside
        hu = self._turned_back(computed.hu)
        hu = np.where(work.kept, hu, np.float32(outside))
        ct = work.onto_input(hu, outside, cubic=True)
        # A mean of passes at the limit may be a rounding below it.
        np.clip(ct, self.settings.output.low, self.settings.output.high, out=ct)
        if beyond is not None:
            ct[beyond] = outside
        progress.update(0.5)
        volume = source.with_array(ct, role=Role.CT, unit=Unit.HU, step=step)
        del ct, hu
        uncertainty = None
        if computed.spread is not None:
            sd = np.where(work.kept, self._turned_back(computed.spread), np.float32(0))
            sd = work.onto_input(sd, 0.0, cubic=False)
            if beyond is not None:
                sd[beyond] = 0
            uncertainty = source.with_array(sd, role=Role.UNCERTAINTY, step=step)
            del sd
        reached = work.covers()
        known = scanned if reached is None else scanned * reached
        coverage = source.with_array(known, role=Role.MASK, unit=Unit.ARBITRARY, step=step)
        progress.update(1.0)
        facts = {**computed.facts, "working_grid": [*work.grid.size], "spacing_mm": work.spacing_mm}
        found = {} if work.found is None else {ANATOMY[self.settings.region]: work.found}
        stated = self.settings.output.stated_error
        spread = Spread.STATED_ERROR if stated else Spread.ANSWERS
        return Synthesis(volume, coverage, uncertainty, facts, found, spread)


@dataclass(frozen=True)
class _Computed:
    """Mean and standard deviation of the passes (HU) on the canvas, and how they came about."""

    hu: Array
    spread: Array | None
    facts: Mapping[str, Any]


class _Run:
    """All passes over one canvas at one load."""

    def __init__(
        self,
        model: PatchwiseSynthesizer,
        canvas: Array,
        region: Mask,
        kept: Mask,
        load: Load,
        engine_name: EngineName,
        said: Sequence[str],
    ) -> None:
        self.model, self.canvas, self.region, self.kept = model, canvas, region, kept
        self.load, self.said = load, list(said)
        self.engine_name = engine_name
        window = model.settings.window
        z, y, x = canvas.shape[1:]
        patch = load.patch
        if window.fit:
            a, b, c = (
                fitted(length, side, window.overlap)
                for length, side in zip((z, y, x), load.patch, strict=True)
            )
            patch = a, b, c
        self.tiling = Tiling((z, y, x), patch, window.overlap)
        self.precision: Precision | None = None
        self.change_hu: float | None = None

    def all_passes(self, progress: Progress) -> _Computed:
        """Predict, average, and tell."""
        began = time.monotonic()
        passes = self.model.passes()
        count = self.tiling.count(self.kept)
        output = self.model.settings.output
        moments = _Moments(self.kept.shape, len(passes), output.stated_error)
        done = 0
        for engine, mirrored in self._engines(passes, progress):
            flips = tuple(self._axis(axis) for axis in mirrored)
            canvas = np.flip(self.canvas, tuple(f + 1 for f in flips))
            kept = np.flip(self.kept, flips)
            engine.begin(canvas)
            moments.next_pass()

            def predict(
                corners: Sequence[Corner], engine: Engine = engine, canvas: Array = canvas
            ) -> Array:
                nonlocal done
                patches = np.stack([canvas[(slice(None), *self.tiling.block(c))] for c in corners])
                made = self._values(engine.predict(patches, corners))
                done += len(corners)
                progress.update(
                    done / (count * len(passes)), f"patch {done} of {count * len(passes)}"
                )
                return made

            def take(first: int, planes: Array, flips: tuple[int, ...] = flips) -> None:
                moments.add(first, planes, flips)

            progress.update(done / (count * len(passes)))
            slide(self.tiling, kept, self.load.batch, predict, take, output.channels)
        moments.check(self.kept, self.model.card.name)
        facts = {
            "engine": str(self.engine_name),
            "device": self.load.device,
            "precision": str(self.precision),
            "precision_change_hu": self.change_hu,
            "patch": list(self.tiling.patch),
            "overlap": self.model.settings.window.overlap,
            "batch": self.load.batch,
            "patches": count,
            "passes": [
                " ".join((p.weights, *(f"mirrored {a}" for a in p.mirrored))) for p in passes
            ],
            "canvas": list(self.tiling.canvas),
            "prediction_s": round(time.monotonic() - began, 2),
            "fallbacks": self.said,
        }
        return _Computed(moments.mean, moments.deviation(output.spread_scale), facts)

    def _engines(
        self, passes: Sequence[Pass], progress: Progress
    ) -> Iterator[tuple[Engine, tuple[str, ...]]]:
        """The engine of each pass; a network is opened once for all its mirrored passes."""
        weights, engine = None, None
        for one in passes:
            if engine is None or one.weights != weights:
                network = self.model.open_network(one.weights)
                engine = self._open(network, progress)
                weights = one.weights
            yield engine, one.mirrored

    def _open(self, network: torch.nn.Module, progress: Progress) -> Engine:
        machine, device = self.model.machine, self.load.device
        engine = open_engine(
            self.engine_name, network, device, self.precision or Precision.FP32, machine.threads
        )
        if self.precision is None:
            wanted = choose_precision(Precision(machine.precision), device)
            if wanted == Precision.FP32:
                self.precision = Precision.FP32
            else:
                engine = self._least_precise(engine, engine.at(wanted), progress)
        return engine

    def _least_precise(self, exact: Engine, quick: Engine, progress: Progress) -> Engine:
        """The quick engine where its answer stays near that of fp32, in the fullest patch."""
        corner = self.tiling.fullest(self.region)
        block = self.tiling.block(corner)
        patches = self.canvas[(slice(None), *block)][np.newaxis]
        inside = self.region[block]
        answers = []
        for engine in (exact, quick):
            engine.begin(self.canvas)
            answers.append(self._values(engine.predict(patches, [corner]))[0, 0][inside])
            progress.check()
        change = float(np.abs(answers[1] - answers[0]).mean()) if inside.any() else 0.0
        self.change_hu = round(change, 3) if np.isfinite(change) else None
        if change <= PRECISION_LIMIT_HU:  # not a number is not near
            self.precision = quick.precision
            return quick
        self.precision = exact.precision
        self.said.append(
            f"In {quick.precision} the CT changes by {change:.1f} HU in the mean, more than "
            f"{PRECISION_LIMIT_HU:g}: computed in {exact.precision}."
        )
        progress.note(self.said[-1])
        return exact

    def _values(self, made: Array) -> Array:
        """HU, and the variance the network states (HU^2): (N, channels, z, y, x) of its answers."""
        out = self.model.settings.output
        if made.shape[1] < out.channels:
            raise MissingModel(
                f"The network of model {self.model.card.name} states no error and its card says it "
                "does: correct stated_error in the card."
            )
        values = np.empty((made.shape[0], out.channels, *made.shape[2:]), np.float32)
        hu = made[:, 0] * np.float32(out.scale) + np.float32(out.offset)
        np.clip(hu, np.float32(out.low), np.float32(out.high), out=values[:, 0])
        if out.stated_error:
            twice_log = 2 * np.clip(made[:, 1], *LOG_ERROR_RANGE)  # NaN stays NaN
            values[:, 1] = np.exp(twice_log) * np.float32(2 * STATED_UNIT_HU**2)
        return values

    def _axis(self, name: str) -> int:
        """The array axis of the network that runs along x, y or z."""
        order = AXES if self.model.settings.axes == "lps-zyx" else AXES[::-1]
        return order.index(name)


class _Moments:
    """Running mean and squared deviations over passes (Welford), and the mean stated variance.

    Memory for two volumes, three with a stated variance.
    """

    def __init__(self, shape: tuple[int, ...], passes: int, stated: bool) -> None:
        self.mean = np.zeros(shape, np.float32)
        self.squares = np.zeros(shape, np.float32) if passes > 1 else None
        self.stated = np.zeros(shape, np.float32) if stated else None
        self.seen = 0

    def next_pass(self) -> None:
        """Begin a pass over all planes."""
        self.seen += 1

    def add(self, first: int, planes: Array, flips: tuple[int, ...]) -> None:
        """Count planes (channels, n, y, x) of the (mirrored) volume in, from an index on."""
        block = slice(first, first + planes.shape[1])
        mean = np.flip(self.mean, flips)[block]
        delta = planes[0] - mean
        mean += delta / np.float32(self.seen)
        if self.squares is not None:
            np.flip(self.squares, flips)[block] += delta * (planes[0] - mean)
        if self.stated is not None:
            stated = np.flip(self.stated, flips)[block]
            stated += (planes[1] - stated) / np.float32(self.seen)

    def deviation(self, scale: float) -> Array | None:
        """Root of the variance between passes plus the stated one, times a factor; or None."""
        if self.squares is None and self.stated is None:
            return None
        variance = np.zeros(1, np.float32) if self.stated is None else self.stated
        if self.squares is not None:
            variance = variance + np.maximum(self.squares / np.float32(self.seen - 1), 0)
        deviation: Array = np.sqrt(variance) * np.float32(scale)
        return deviation

    def check(self, kept: Mask, model: str) -> None:
        """Raise InputError when the network gave something that is not a number."""
        stated = 0.0 if self.stated is None else self.stated[kept]
        if not (np.isfinite(self.mean[kept]).all() and np.isfinite(stated).all()):
            raise InputError(
                f"Model {model} gave values that are not numbers: check the MR for extreme "
                "values, and choose the precision fp32."
            )


def _size(patch: Shape) -> str:
    return " x ".join(str(side) for side in patch)


def build(card: ModelCard, machine: Machine) -> PatchwiseSynthesizer:
    """The family's entry for the registry."""
    return open_patchwise(card, settings_of(card, PatchwiseSettings), machine)


def open_patchwise(
    card: ModelCard, settings: PatchwiseSettings, machine: Machine
) -> PatchwiseSynthesizer:
    """A network that slides over the MR, with the weights that a card lists.

    Raises MissingPackage, or MissingModel when the card and the settings disagree.
    """
    for package in ("torch", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(
                f"Model {card.name} needs the package {package}, which is not installed: install "
                f"it{' (in Slicer: the extension PyTorch)' if package == 'torch' else ''}, or "
                "choose another model."
            )
    unlisted = sorted(set(settings.weights) - set(card.files))
    if unlisted:
        raise MissingModel(
            f"The card of model {card.name} lists no SHA-256 of {', '.join(unlisted)}: add it "
            "under files."
        )
    channels = settings.network_settings.get("in_channels", settings.preparation.channels)
    if channels != settings.preparation.channels:
        raise MissingModel(
            f"The network of model {card.name} takes {channels} channels and its preparation "
            f"makes {settings.preparation.channels}: correct the card."
        )
    return PatchwiseSynthesizer(card, settings, machine)
