"""Atlas synthesis: simulated MR/CT pairs are brought onto the subject's MR, and their CTs combined.

- Affine or deformable registration of every atlas, and the mean of the warped CTs: Paper 2, section
  2.1 (normalised mutual information there; Mattes mutual information here).
- Local fusion: each warped CT counts, voxel by voxel, by how well its warped MR resembles the
  subject's MR around that voxel (local normalised cross-correlation, Burgos et al., IEEE TMI
  2014;33:2332, doi 10.1109/TMI.2014.2340135). This is the family of Paper 1's multi-atlas
  comparator MaxProb.

The atlases ship as label maps (:mod:`SynthCTLib.phantom` makes the pairs at first use).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from pydantic import ConfigDict
from scipy import ndimage

from SynthCTLib.errors import InputError, RegistrationFailed
from SynthCTLib.imaging.grids import Reoriented, isotropic_grid, own_frame, resample, to_lps
from SynthCTLib.imaging.masks import head_mask
from SynthCTLib.progress import Progress
from SynthCTLib.registration import (
    AffineOptions,
    DeformableOptions,
    register_affine,
    register_deformable,
)
from SynthCTLib.synthesis.alignment import LEAST_LIKENESS, align_heads
from SynthCTLib.synthesis.atlas_pairs import Atlas, open_atlases
from SynthCTLib.synthesis.registry import Machine
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Anatomy, ModelCard, Synthesis, input_of
from SynthCTLib.volume import AIR_HU, Grid, Role, Step, Volume

Array = npt.NDArray[np.float32]

MOST_FOLDING = 0.01  # share of the head: where space folds, the similarity is low and counts little
TISSUE_HU = -500.0  # above it a CT shows tissue, below it air
MARGIN_MM = 12.0  # of the working grid around the subject's head, so that skin is not cut


@dataclass(frozen=True)
class AtlasSettings:
    """What the model card states.

    ``atlases``: label maps in ``Resources/Atlases/heads``, the first is the template that the
    subject is brought to first. ``working_mm``: voxel of the grid that the CTs are combined on.
    ``similarity_mm``: standard deviation of the Gaussian window of the local correlation.
    ``sharpness``: an atlas counts by exp(sharpness x local correlation); 0 is the plain mean.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    atlases: tuple[str, ...]
    registration: Literal["affine", "deformable"]
    combination: Literal["mean", "fusion"]
    working_mm: float = 1.0
    similarity_mm: float = 3.0
    sharpness: float = 16.0
    minimum_atlases: int = 2


class AtlasSynthesizer:
    """Pseudo-CT of an MR head from registered atlases."""

    def __init__(self, card: ModelCard, settings: AtlasSettings, machine: Machine) -> None:
        self.card = card
        self.settings = settings
        self.machine = machine

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        """Register, warp and combine the atlases.

        The MR should be bias corrected. Returns the CT on the MR's grid (HU), the coverage, and
        as uncertainty the weighted standard deviation of the warped CTs (HU). Raises
        RegistrationFailed when the head cannot be matched.
        """
        source = input_of(inputs, Role.MR, self.card)
        atlases = open_atlases(self.settings.atlases, self.machine, progress.within("Atlases", 0.1))
        progress.stage("Finding the head", 0.03)
        canonical = to_lps(source)
        # A registration from elsewhere ends a little elsewhere: a patient who lay turned, with the
        # slices turned alike, must get the same answer.
        straight = own_frame(canonical.volume)
        head = head_mask(straight)
        work = _working_grid(head, self.settings.working_mm)
        mr = resample(straight, work)
        head_work = resample(head, work)

        template = atlases[0]
        affine = align_heads(
            mr,
            head_work,
            template.mr,
            template.ct.mask(template.ct.array > TISSUE_HU),
            self.machine.threads,
            progress.within("Aligning with the template", 0.12),
        )
        similarity = LocalCorrelation(mr, head_work, self.settings.similarity_mm)
        parts = progress.concurrent("Registering the atlases", 0.7, len(atlases))

        def register(atlas: Atlas, part: Progress) -> _Warped | None:
            try:
                return self._warp(atlas, mr, head_work, affine.transform, similarity, part)
            except RegistrationFailed as error:
                part.note(f"Atlas {atlas.name} was left out: {error}")
                return None

        mixture = _Mixture(mr.array.shape)
        facts = []
        pool = ThreadPoolExecutor(max_workers=max(1, self.machine.threads))
        try:
            for warped in pool.map(register, atlases, parts):  # in order: the same sums every time
                if warped is not None:
                    mixture.add(warped)
                    facts.append(warped.facts)
        finally:
            pool.shutdown(cancel_futures=True)

        enough = min(self.settings.minimum_atlases, len(atlases))
        if len(facts) < enough:
            raise RegistrationFailed(
                f"Only {len(facts)} of {len(atlases)} atlases could be registered to the head: "
                "check that the MR shows a whole head and is the right way up."
            )
        progress.stage("Combining", 0.05)
        hu, spread, covered = mixture.result(enough)
        answer = Synthesis(
            *self._on_input_grid(canonical, head, mr, hu, spread, covered),
            {
                "atlases": facts,
                "template_mutual_information": round(affine.quality.mutual_information, 4),
            },
            {Anatomy.HEAD: canonical.restore(head)},
        )
        progress.update(1.0)
        return answer

    def _warp(
        self,
        atlas: Atlas,
        mr: Volume,
        head: Volume,
        to_template: sitk.Transform,
        similarity: LocalCorrelation,
        progress: Progress,
    ) -> _Warped:
        """Register one atlas to the subject's MR, and warp its CT and weights onto its grid."""
        registered = register_affine(
            mr,
            atlas.mr,
            AffineOptions(threads=1, least_quality=LEAST_LIKENESS, iterations=400),
            initial=sitk.CompositeTransform([atlas.from_template, to_template]),
            fixed_mask=head,
            progress=progress.within(f"{atlas.name}: affine", 0.25),
        )
        if self.settings.registration == "deformable":
            registered = register_deformable(
                mr,
                atlas.mr,
                DeformableOptions(
                    threads=1, least_quality=LEAST_LIKENESS, folding_limit=MOST_FOLDING
                ),
                initial=registered,
                fixed_mask=head,
                progress=progress.within(f"{atlas.name}: deformable", 0.6),
            )
        progress.stage(f"{atlas.name}: warping", 0.15)
        grid, transform = mr.grid, registered.transform
        ct = resample(atlas.ct, grid, transform=transform)
        known = resample(atlas.known, grid, transform=transform).array > 0
        weight: Array = known.astype(np.float32)
        if self.settings.combination == "fusion":
            likeness = similarity.to(resample(atlas.mr, grid, transform=transform))
            weight *= np.exp(self.settings.sharpness * (likeness - 1))
        progress.update(1.0)
        facts = {
            "name": atlas.name,
            "kind": registered.kind,
            "mutual_information": round(registered.quality.mutual_information, 4),
            "overlap": round(registered.quality.overlap, 4),
            "converged": registered.converged,
        }
        return _Warped(ct.array, weight, known, facts)

    def _on_input_grid(
        self,
        canonical: Reoriented,
        head: Volume,
        work: Volume,
        hu: Array,
        spread: Array,
        covered: npt.NDArray[np.bool_],
    ) -> tuple[Volume, Volume, Volume]:
        """CT, coverage and uncertainty back on the grid and in the axis order of the input.

        ``head``, ``work`` and what lies on it are in the frame of the input's own axes.
        """
        grid = head.grid
        inside = head.array > 0
        reached = resample(work.mask(covered), grid).array > 0
        ct = resample(work.with_array(hu, role=Role.CT), grid).array
        sd = resample(work.with_array(spread, role=Role.UNCERTAINTY), grid).array
        step = Step(
            "synthesize",
            {
                "model": self.card.name,
                "version": self.card.version,
                **asdict(self.settings),
            },
        )
        source = canonical.volume
        # Air outside the head is seen on the MR itself; tissue that no atlas reaches is not known.
        made = source.with_array(
            np.where(inside & reached, ct, np.float32(AIR_HU)), role=Role.CT, step=step
        )
        coverage = source.mask(reached | ~inside, step)
        uncertainty = source.with_array(
            np.where(inside & reached, sd, np.float32(0)), role=Role.UNCERTAINTY, step=step
        )
        return (
            canonical.restore(made),
            canonical.restore(coverage),
            canonical.restore(uncertainty),
        )


def build(card: ModelCard, machine: Machine) -> AtlasSynthesizer:
    """The family's entry for the registry."""
    return AtlasSynthesizer(card, settings_of(card, AtlasSettings), machine)


@dataclass(frozen=True)
class _Warped:
    """One atlas on the working grid: CT (HU), weight, where it is known, and how it fitted."""

    ct: Array
    weight: Array
    known: npt.NDArray[np.bool_]
    facts: Mapping[str, Any]


class _Mixture:
    """Running weighted moments of the warped CTs: memory for one atlas, not for all."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.weight = np.zeros(shape, np.float32)
        self.first = np.zeros(shape, np.float32)
        self.second = np.zeros(shape, np.float32)
        self.count = np.zeros(shape, np.uint8)

    def add(self, warped: _Warped) -> None:
        """Count one more atlas in."""
        weighted = warped.weight * warped.ct
        self.weight += warped.weight
        self.first += weighted
        self.second += weighted * warped.ct
        self.count += warped.known

    def result(self, enough: int) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        """CT and standard deviation (HU), and where at least ``enough`` atlases reach."""
        covered = self.count >= enough
        total = np.where(covered, self.weight, np.float32(1))
        mean = np.where(covered, self.first / total, np.float32(AIR_HU))
        variance = np.where(covered, self.second / total - mean * mean, np.float32(0))
        return mean, np.sqrt(np.maximum(variance, 0)), covered


class LocalCorrelation:
    """Local normalised cross-correlation of images with one MR, in a Gaussian window.

    At half the resolution of the MR, and back: the window is much wider than a voxel.
    """

    def __init__(self, mr: Volume, head: Volume, sigma_mm: float) -> None:
        self.grid = mr.grid
        self.coarse = isotropic_grid(mr.grid, 2 * min(mr.grid.spacing_mm))
        self.sigma_mm = sigma_mm
        self.subject = resample(mr, self.coarse).image
        self.mean, self.variance = self._moments(self.subject)
        inside = resample(head, self.coarse).array > 0
        # Where the subject's MR is flat (air, noise), correlation says nothing: damp it there.
        self.floor = 1e-3 * float(self.subject_array[inside].var()) if inside.any() else 1.0

    @property
    def subject_array(self) -> npt.NDArray[Any]:
        """The subject's MR on the coarse grid."""
        values: npt.NDArray[Any] = sitk.GetArrayFromImage(self.subject)
        return values

    def to(self, other: Volume) -> Array:
        """Correlation of an image on the MR's grid with the MR, -1 to 1, shape (z, y, x)."""
        image = resample(other, self.coarse).image
        mean, variance = self._moments(image)
        covariance = self._smooth(self.subject * image) - self.mean * mean
        scale = float(sitk.GetArrayViewFromImage(variance).mean()) / max(
            float(sitk.GetArrayViewFromImage(self.variance).mean()), 1e-12
        )
        power = (self.variance + self.floor) * (variance + self.floor * scale)
        local = sitk.Clamp(covariance / sitk.Sqrt(power), sitk.sitkFloat32, -1.0, 1.0)
        fine = sitk.Resample(
            local,
            self.grid.size,
            sitk.Transform(3, sitk.sitkIdentity),
            sitk.sitkLinear,
            self.grid.origin_mm,
            self.grid.spacing_mm,
            self.grid.direction,
            0.0,
        )
        values: Array = sitk.GetArrayFromImage(fine)
        return values

    def _smooth(self, image: sitk.Image) -> sitk.Image:
        return sitk.SmoothingRecursiveGaussian(image, self.sigma_mm)

    def _moments(self, image: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
        mean = self._smooth(image)
        variance = self._smooth(image * image) - mean * mean
        return mean, sitk.Clamp(variance, sitk.sitkFloat32, 0.0)


def _working_grid(head: Volume, spacing_mm: float) -> Grid:
    """The block around the head, along the axes of its grid, with cubic voxels."""
    places = ndimage.find_objects(head.array.astype(np.uint8))
    if not places:
        raise InputError(
            "No head was found in the MR image: give a whole-head MR that is not masked."
        )
    begin = np.array([s.start for s in places[0]][::-1])
    end = np.array([s.stop for s in places[0]][::-1])
    margin = np.ceil(MARGIN_MM / np.asarray(head.grid.spacing_mm)).astype(int)
    begin = np.maximum(begin - margin, 0)
    end = np.minimum(end + margin, head.grid.size)
    block = sitk.RegionOfInterest(head.image, (end - begin).tolist(), begin.tolist())
    return isotropic_grid(Grid.of(block), spacing_mm)
