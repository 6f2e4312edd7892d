"""The FDG PET of a simulated head: where no real pair of MR and PET can be had.

Regional means are published ones; how people differ is simulated in two ways, and neither leaves a
trace in the MR: one factor for the whole brain, and a smooth field over it, as regional metabolism
differs with age, state and disease. What no network can know from the MR is therefore known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from SynthCTLib.errors import InputError
from SynthCTLib.phantom.fields import blur, smooth_field, stream
from SynthCTLib.phantom.pair import Purpose, composed
from SynthCTLib.phantom.render import by_tissue
from SynthCTLib.phantom.tissues import Tissue
from SynthCTLib.physics.fdg import BONE_SUV, FAT_SUV, MUSCLE_SUV
from SynthCTLib.volume import Role, Step, Unit, Volume

# Young adults, 180 minutes after injection: supratentorial 9.14 +- 1.83, cerebellum 6.80 +- 1.21
# (Hell J Nucl Med 2018, doi 10.1967/s002449910902). White by grey matter 3.41 / 7.30: Huang et
# al., Am J Physiol 238 (1980) E69; the brain stem goes with white matter (Heiss et al., J Cereb
# Blood Flow Metab 4 (1984) 212). Deep grey matter is taken as the cortex.
CORTEX_SUV = 9.14
CEREBELLUM_SUV = 6.80
WHITE_SUV = CORTEX_SUV * 3.41 / 7.30
NOISE_MM = 2.0  # side of the voxel that the noise is stated for
BETWEEN_SUBJECTS = 1.83 / 9.14  # standard deviation, relative

_GREY = (
    Tissue.GREY_MATTER,
    Tissue.THALAMUS,
    Tissue.CAUDATE,
    Tissue.PUTAMEN,
    Tissue.PALLIDUM,
    Tissue.HIPPOCAMPUS,
)
_BRAIN = (*_GREY, Tissue.CEREBELLAR_CORTEX, Tissue.WHITE_MATTER, Tissue.BRAIN_STEM, Tissue.LESION)
_BONE = (Tissue.CORTICAL_BONE, Tissue.DIPLOE, Tissue.CANCELLOUS_BONE)
_NONE = (Tissue.AIR, Tissue.CSF, Tissue.EYE, Tissue.CHOROID_PLEXUS)

UPTAKE_SUV: Mapping[Tissue, float] = {
    **dict.fromkeys(Tissue, MUSCLE_SUV),
    **dict.fromkeys(_GREY, CORTEX_SUV),
    Tissue.CEREBELLAR_CORTEX: CEREBELLUM_SUV,
    **dict.fromkeys((Tissue.WHITE_MATTER, Tissue.BRAIN_STEM, Tissue.LESION), WHITE_SUV),
    Tissue.FAT: FAT_SUV,
    **dict.fromkeys(_BONE, BONE_SUV),
    **dict.fromkeys(_NONE, 0.0),
}


@dataclass(frozen=True)
class UptakeOptions:
    """How the PET looks. Standard deviations are relative.

    ``regional``: of the field over the brain, ``regional_mm`` wide; ``noise``: of a voxel of
    2 mm before the PET's resolution of ``fwhm_mm`` is applied.
    """

    between_subjects: float = BETWEEN_SUBJECTS
    regional: float = 0.10
    regional_mm: float = 40.0
    fwhm_mm: float = 6.0
    noise: float = 0.15

    def __post_init__(self) -> None:
        if min(self.between_subjects, self.regional, self.noise, self.fwhm_mm) < 0:
            raise InputError("Spreads and widths of an uptake cannot be negative: give 0 or more.")
        if self.regional_mm <= 0:
            raise InputError("The field over the brain needs a width: give more than 0 mm.")


def make_fdg(
    labels: Volume, options: UptakeOptions | None = None, *, seed: int, device: str = "cpu"
) -> Volume:
    """The PET (SUV, float32) of a label map, on its grid; simulated.

    With the seed of ``make_pair`` muscle and fat lie where they do in its MR and CT. The same seed
    gives the same bits on the same device. Raises InputError as ``make_pair``.
    """
    options = options or UptakeOptions()
    canonical, tissues = composed(labels, seed, device)
    anatomy = canonical.volume
    spacing_mm = anatomy.grid.spacing_mm
    table = torch.tensor([UPTAKE_SUV[t] for t in Tissue], device=device)
    chance = stream(seed, Purpose.PET, device)
    whole = 1 + options.between_subjects * torch.randn((), generator=chance, device=device)
    field = smooth_field(tissues.shape, options.regional_mm, spacing_mm, chance)
    brain = torch.isin(tissues, torch.tensor([int(t) for t in _BRAIN], device=device))
    factor = torch.where(brain, whole.clamp(min=0.3) * (1 + options.regional * field), 1.0)
    suv = by_tissue(table, tissues) * factor.clamp(min=0.0)
    # The same noise in a cubic centimetre, whatever the voxels.
    noise = options.noise * (NOISE_MM**3 / anatomy.grid.voxel_mm3) ** 0.5
    grain = torch.randn(suv.shape, generator=chance, device=device)
    suv = blur(suv * (1 + noise * grain), options.fwhm_mm, spacing_mm)
    step = Step("phantom_fdg", {"seed": seed, **asdict(options)})
    made = anatomy.with_array(
        suv.clamp(min=0.0).cpu().numpy(), role=Role.PET, unit=Unit.SUV, step=step
    )
    return canonical.restore(made)
