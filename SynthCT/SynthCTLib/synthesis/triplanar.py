"""Slice-wise synthesis: a 2D network answers axial, coronal and sagittal slices, which are fused.

The input is brought onto cubic voxels (LPS), cut out around the body, prepared as in training, and
each slice across one to three axes is answered by itself (Papers 3, 4 and 5). The answers of the
axes, and of several sets of weights (folds), are fused voxel by voxel (Paper 4: their median in the
body contour); their spread is the uncertainty. The result lies on exactly the grid of the input.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.imaging.grids import scanned_field
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.codebook_use import CodebookUse, codebook_use
from SynthCTLib.synthesis.engines import EngineName, OutOfMemory, Precision, open_engine
from SynthCTLib.synthesis.fusion import Fusion, fused
from SynthCTLib.synthesis.patchwise import Output
from SynthCTLib.synthesis.preparation import Preparation, prepare
from SynthCTLib.synthesis.registry import Machine
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import ModelCard, Synthesis, input_of
from SynthCTLib.synthesis.weights import load_weights, network_of
from SynthCTLib.synthesis.working_view import Region, WorkingView, view_of
from SynthCTLib.volume import AIR_HU, Role, Step, Unit, Volume

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]
Axis = Literal["z", "y", "x"]
AXES = "zyx"
LEAST_CANVAS = (16, 16, 16)


@dataclass(frozen=True)
class SliceNetworkSettings:
    """A 2D network and what it sees and says.

    ``weights``: safetensors files, one for each fold. ``axes`` that slices are cut across (z:
    axial, y: coronal, x: sagittal), ``fusion`` of their answers. ``output``: from the network's
    number to HU or SUV. ``batch``: slices at once.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    network: str
    weights: Annotated[tuple[str, ...], Field(min_length=1)]
    output: Output = field(default_factory=Output)
    network_settings: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation = field(default_factory=Preparation)
    axes: Annotated[tuple[Axis, ...], Field(min_length=1)] = ("z", "y", "x")
    fusion: Fusion = Fusion.MEDIAN
    batch: Annotated[int, Field(ge=1)] = 8


@dataclass(frozen=True)
class PlaceSettings:
    """Which part of the input is seen: cubic voxels of ``working_mm`` about a ``region``.

    ``crop_margin_mm`` around it is for the network to see, ``keep_margin_mm`` is kept in it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    working_mm: Annotated[float, Field(gt=0)] = 1.5
    region: Region = Region.BODY
    crop_margin_mm: Annotated[float, Field(ge=0)] = 0.0
    keep_margin_mm: Annotated[float, Field(ge=0)] = 0.0

    def view(self, source: Volume) -> WorkingView:
        """The part of an input. Raises InputError when no head or body is found."""
        return view_of(
            source,
            self.region,
            self.working_mm,
            self.crop_margin_mm,
            self.keep_margin_mm,
            LEAST_CANVAS,
        )


@dataclass(frozen=True)
class TriplanarSettings(PlaceSettings, SliceNetworkSettings):
    """What the card of a model of this family states."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Answer:
    """Of a whole canvas (z, y, x), HU or SUV; ``spread`` between several answers, or None."""

    values: Array
    spread: Array | None
    facts: Mapping[str, Any]


class SliceModel:
    """A 2D network with its weights, on a machine."""

    def __init__(self, card: ModelCard, settings: SliceNetworkSettings, machine: Machine) -> None:
        self.card, self.settings, self.machine = card, settings, machine

    def open_network(self, weights: str) -> torch.nn.Module:
        """The network with the weights of one fold, float32 on the CPU. Raises MissingModel."""
        settings = self.settings
        network = network_of(self.card.name, settings.network, settings.network_settings)
        if not hasattr(network, "side_multiple"):
            raise MissingModel(
                f"Model {self.card.name} cannot be built: {settings.network} is no network of "
                "slices. Correct the network on its card."
            )
        load_weights(network, self.card.file(weights), self.card.name)
        return network

    def answer(self, work: WorkingView, progress: Progress) -> Answer:
        """Answer every slice, and fuse. Raises InputError when the memory does not suffice."""
        settings = self.settings
        began = time.monotonic()
        canvas = prepare(work.mr, work.scanned, work.region, settings.preparation)
        answers: list[Array] = []
        used: list[CodebookUse] = []
        said: list[str] = []
        passes = [(w, axis) for w in settings.weights for axis in settings.axes]
        for weights in settings.weights:
            network = self.open_network(weights)
            counter = _CodeCounter(network)
            for axis in settings.axes:
                part = progress.within(f"Slices across {axis}", 1 / len(passes))
                answers.append(self._across(network, axis, canvas, part, said))
            if counter.counts is not None:
                used.append(codebook_use(counter.counts))
                progress.note(used[-1].sentence)
        values = fused(answers, settings.fusion)
        scale = settings.output.spread_scale
        spread = np.std(np.stack(answers), axis=0) * scale if len(answers) > 1 else None
        facts: dict[str, Any] = {
            "device": self.machine.device,
            "axes": list(settings.axes),
            "fusion": str(settings.fusion),
            "canvas": list(canvas.shape[1:]),
            "prediction_s": round(time.monotonic() - began, 2),
            "fallbacks": said,
        }
        if used:
            facts["codebook"] = [{**asdict(u), "collapsed": u.collapsed} for u in used]
        return Answer(values, spread, facts)

    def _across(
        self,
        network: torch.nn.Module,
        axis: Axis,
        canvas: Array,
        progress: Progress,
        said: list[str],
    ) -> Array:
        """The answer (z, y, x) by the slices across one axis, HU or SUV within the stated range."""
        slices = np.moveaxis(canvas, AXES.index(axis) + 1, 0)  # slice, channel, rows, columns
        count, _, rows, columns = slices.shape
        multiple: int = network.side_multiple
        margins = ((0, 0), (0, 0), (0, -rows % multiple), (0, -columns % multiple))
        padded = np.pad(slices, margins, constant_values=self.settings.preparation.outside)
        device, batch = self.machine.device, self.settings.batch
        engine = open_engine(
            EngineName.TORCH, network, device, Precision.FP32, self.machine.threads
        )
        made = np.empty((count, rows, columns), np.float32)
        done = 0
        while done < count:
            progress.update(done / count, f"slice {done} of {count}")
            part = padded[done : done + batch, :, np.newaxis]
            try:
                answer = engine.predict(part, [(0, 0, 0)] * len(part))
            except OutOfMemory as error:
                if batch > 1:
                    batch //= 2
                    said.append(
                        f"The memory did not suffice: going on with {batch} slices at once."
                    )
                elif device != "cpu":
                    device = "cpu"
                    said.append(
                        "The memory of the accelerator did not suffice: going on on the CPU."
                    )
                    engine = open_engine(
                        EngineName.TORCH, network, device, Precision.FP32, self.machine.threads
                    )
                else:
                    raise InputError(
                        f"The memory does not suffice for model {self.card.name}, not even for one "
                        "slice: close other programs, or take another model."
                    ) from error
                progress.note(said[-1])
                continue
            made[done : done + len(part)] = answer[:, 0, 0, :rows, :columns]
            done += len(part)
        output = self.settings.output
        values = np.clip(output.scale * made + output.offset, output.low, output.high)
        return np.moveaxis(values, 0, AXES.index(axis))


class _CodeCounter:
    """Counts how often each code of a network's codebook is used; None where it has none."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.counts: npt.NDArray[np.int64] | None = None
        if hasattr(network, "quantize"):
            codes = network.quantize.embedding.num_embeddings
            self.counts = np.zeros(codes, np.int64)
            network.quantize.register_forward_hook(self._count)

    def _count(self, module: object, inputs: object, made: Any) -> None:
        del module, inputs
        assert self.counts is not None
        self.counts += np.bincount(made.codes.cpu().numpy().ravel(), minlength=len(self.counts))


class TriplanarSynthesizer:
    """An image made slice by slice, in one to three planes."""

    def __init__(self, card: ModelCard, settings: TriplanarSettings, machine: Machine) -> None:
        self.card, self.settings = card, settings
        self.models = (SliceModel(card, settings, machine),)

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        """Make the output role on the input's grid; see :func:`onto_input`."""
        source = input_of(inputs, self.card.task.input_role, self.card)
        progress.stage("Finding the body", 0.1)
        work = self.settings.view(source)
        made = self.models[0].answer(work, progress.within("Predicting", 0.8))
        progress.stage("Back onto the grid of the input", 0.1)
        return onto_input(self.card, asdict(self.settings), source, work, made, progress)


def onto_input(
    card: ModelCard,
    settings: Mapping[str, Any],
    source: Volume,
    work: WorkingView,
    made: Answer,
    progress: Progress,
) -> Synthesis:
    """An answer on the canvas as the answer of a model.

    Outside the body, and where the input was not scanned, a CT is -1000 HU and a PET 0 SUV. The
    uncertainty (HU or SUV) is the standard deviation of several answers.
    """
    role, unit = card.task.output_role, card.task.output_unit
    outside = AIR_HU if role == Role.CT else 0.0
    step = Step("synthesize", {"model": card.name, "version": card.version, **settings})
    scanned = scanned_field(source, source.grid).array

    def placed(values: Array, beyond: float, cubic: bool) -> Array:
        kept = np.where(work.kept, values, np.float32(beyond))
        array = work.onto_input(kept, beyond, cubic=cubic)
        return np.where(scanned > 0, array, np.float32(beyond))

    volume = source.with_array(placed(made.values, outside, True), role=role, unit=unit, step=step)
    progress.update(0.5)
    uncertainty = None
    if made.spread is not None:
        spread = placed(made.spread, 0.0, False)
        uncertainty = source.with_array(spread, role=Role.UNCERTAINTY, unit=unit, step=step)
    coverage = source.with_array(scanned, role=Role.MASK, unit=Unit.ARBITRARY, step=step)
    progress.update(1.0)
    facts = {**made.facts, "working_grid": [*work.grid.size], "spacing_mm": work.spacing_mm}
    return Synthesis(volume, coverage, uncertainty, facts)


def build(card: ModelCard, machine: Machine) -> TriplanarSynthesizer:
    """The family's entry for the registry."""
    return TriplanarSynthesizer(card, settings_of(card, TriplanarSettings), machine)
