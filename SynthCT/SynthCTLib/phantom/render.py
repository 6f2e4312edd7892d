"""From labels to tissues to signal and HU: tensors in, tensors out, on any device.

Every tensor is (..., z, y, x) with any number of leading batch axes; spacings are (x, y, z) in mm.
All chance comes from the generators given, one for each purpose (``fields.stream``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from SynthCTLib.errors import InputError
from SynthCTLib.phantom.fields import FWHM_PER_SIGMA, blur, smooth_field
from SynthCTLib.phantom.options import PhantomOptions
from SynthCTLib.phantom.signal import signal_table
from SynthCTLib.phantom.tissues import APPEARANCE, TISSUE_OF_LABEL, Tissue
from SynthCTLib.volume import AIR_HU, Triple

# Chosen by looking at real T1 heads, as everything here: the scalp is a bright layer of a few
# millimetres under the skin, with muscle below it at the temples and in the neck.
_SCALP_FAT_MM = 4.0
_SCALP_FAT_SD_MM = 1.2
_SCALP_FAT_FWHM_MM = 25.0  # over which its thickness varies
_SKIN_FWHM_MM = 7.0
# Between the muscles: sheets of 2 mm (a field near zero) and lobules (a field far above it), each
# about a tenth of the deep soft tissue.
_SHEET_FWHM_MM = 14.0
_SHEET_BELOW = 0.12
_LOBULE_FWHM_MM = 6.0
_LOBULE_ABOVE = 1.3
# The orbit is filled with fat: soft tissue within about 10 mm of the eye, its muscles and nerve.
_ORBIT_FWHM_MM = 12.0
_ORBIT_SHARE = 0.12
# Bone more than about 2.5 mm deep on all sides has a spongy middle.
_BONE_FWHM_MM = 4.0
_DIPLOE_SHARE = 0.86
_DIPLOE_SHARE_SD = 0.05

_COARSE_TEXTURE_FWHM_MM = 15.0
_FINE_TEXTURE_FWHM_MM = 2.5
_MR_FINE_SHARE = 0.5  # of the variance
_CT_FINE_SHARE = 0.15  # a real skull is smooth in CT
_BIAS_FWHM_MM = 120.0


def tissues_of(labels: Tensor) -> Tensor:
    """Compact tissue index (uint8) of each label (any integer type).

    Soft tissue is all muscle and label 515 all cortical bone until ``compose``. Raises InputError
    naming the labels that have no tissue.
    """
    table = torch.full((max(TISSUE_OF_LABEL) + 2,), 255, dtype=torch.uint8, device=labels.device)
    for label, tissue in TISSUE_OF_LABEL.items():
        table[label] = int(tissue)
    known = torch.where((labels >= 0) & (labels < len(table) - 1), labels, len(table) - 1)
    tissues = table.index_select(0, known.flatten().int()).reshape(labels.shape)
    unknown = torch.unique(labels[tissues == 255]).tolist()
    if unknown:
        raise InputError(
            f"The label map holds labels that stand for no tissue ({_listed(unknown)}): "
            "use FreeSurfer's brain labels and those of the head from 502 to 530, 0 for air."
        )
    return tissues


def compose(tissues: Tensor, spacing_mm: Triple, generator: torch.Generator) -> Tensor:
    """Divide soft tissue into muscle and fat, and thick cortical bone into compact and spongy.

    Fat lies under the skin, in the orbit and in sheets and lobules between the muscles.
    """
    composed = tissues.clone()
    soft = tissues == Tissue.MUSCLE
    if soft.any():
        fat = _under_skin(tissues, spacing_mm, generator)
        fat |= smooth_field(tissues.shape, _LOBULE_FWHM_MM, spacing_mm, generator) > _LOBULE_ABOVE
        sheets = smooth_field(tissues.shape, _SHEET_FWHM_MM, spacing_mm, generator)
        fat |= sheets.abs_() < _SHEET_BELOW
        orbit = _any_of(tissues, Tissue.EYE, Tissue.EYE_MUSCLE, Tissue.OPTIC_NERVE)
        fat |= blur(orbit, _ORBIT_FWHM_MM, spacing_mm) > _ORBIT_SHARE
        composed[soft & fat] = int(Tissue.FAT)
    bone = _any_of(tissues, Tissue.CORTICAL_BONE, Tissue.CANCELLOUS_BONE)
    if bone.any():
        share = blur(bone, _BONE_FWHM_MM, spacing_mm)
        field = smooth_field(tissues.shape, _COARSE_TEXTURE_FWHM_MM, spacing_mm, generator)
        spongy = share + _DIPLOE_SHARE_SD * field > _DIPLOE_SHARE
        composed[(tissues == Tissue.CORTICAL_BONE) & spongy] = int(Tissue.DIPLOE)
    return composed


def render_mr(
    tissues: Tensor, spacing_mm: Triple, options: PhantomOptions, generator: torch.Generator
) -> Tensor:
    """MR signal, float32, relative to T1-weighted white matter; not negative.

    The mean of each tissue plus texture, blurred, times the bias field, under Rician noise
    (Gudbjartsson and Patz, Magn Reson Med 34 (1995) 910): in air its mean is sqrt(pi/2) sigma.
    """
    table = signal_table(options.contrast, tuple(tissues.shape[:-3]), generator)
    signal = by_tissue(table.means, tissues)
    if options.texture:
        texture = texture_field(tissues.shape, spacing_mm, _MR_FINE_SHARE, generator)
        signal.addcmul_(texture, by_tissue(table.spreads, tissues), value=options.texture)
        signal.clamp_(min=0)
    signal = blur(signal, options.mr_blur_mm, spacing_mm)
    if options.mr_bias:
        bias = smooth_field(tissues.shape, _BIAS_FWHM_MM, spacing_mm, generator)
        signal = signal * bias.mul_(options.mr_bias).exp_()
    if options.mr_noise:
        noise = [_white(signal, options.mr_noise, generator) for _ in range(2)]
        signal = torch.hypot(noise[0].add_(signal), noise[1])
    return signal


def render_ct(
    tissues: Tensor, spacing_mm: Triple, options: PhantomOptions, generator: torch.Generator
) -> Tensor:
    """CT in HU, float32, not below -1000.

    The mean of each tissue plus its spread, blurred, plus noise in proportion to density, so that
    air away from tissue is -1000 exactly.
    """
    means, spreads = _tables(tissues.device, "hu", "hu_sd")
    hu = by_tissue(means, tissues)
    if options.hu_spread:
        texture = texture_field(tissues.shape, spacing_mm, _CT_FINE_SHARE, generator)
        hu.addcmul_(texture, by_tissue(spreads, tissues), value=options.hu_spread)
    hu = blur(hu, options.ct_blur_mm, spacing_mm)
    if options.ct_noise_hu:
        density = ((hu - AIR_HU) / -AIR_HU).clamp_(0, 1)
        hu = hu.addcmul(_white(hu, options.ct_noise_hu, generator), density)
    return hu.clamp(min=AIR_HU)


def _under_skin(tissues: Tensor, spacing_mm: Triple, generator: torch.Generator) -> Tensor:
    """Voxels within the local thickness of subcutaneous fat from the skin.

    A sheet of skin of thickness t blurred with sigma has the value
    t / (sigma sqrt(2 pi)) exp(-d^2 / (2 sigma^2)) at depth d below its middle, which is compared
    with that at the wanted depth: no distance transform, and the outside need not be known.
    """
    skin_mm = 3.0  # median of the label maps
    sigma = _SKIN_FWHM_MM / FWHM_PER_SIGMA
    depth = smooth_field(tissues.shape, _SCALP_FAT_FWHM_MM, spacing_mm, generator)
    depth.mul_(_SCALP_FAT_SD_MM).add_(_SCALP_FAT_MM + skin_mm / 2).clamp_(min=0)
    at_depth = depth.square_().mul_(-0.5 / sigma**2).exp_().mul_(skin_mm / sigma / 2.5066283)
    return blur(_any_of(tissues, Tissue.SKIN), _SKIN_FWHM_MM, spacing_mm) > at_depth


def texture_field(
    shape: Sequence[int], spacing_mm: Triple, fine_share: float, generator: torch.Generator
) -> Tensor:
    """Field of variance 1, ``fine_share`` of it in fine structure and the rest in coarse."""
    coarse = smooth_field(shape, _COARSE_TEXTURE_FWHM_MM, spacing_mm, generator)
    fine = smooth_field(shape, _FINE_TEXTURE_FWHM_MM, spacing_mm, generator)
    return coarse.mul_((1 - fine_share) ** 0.5).add_(fine, alpha=fine_share**0.5)


def _tables(device: torch.device, mean: str, spread: str) -> tuple[Tensor, Tensor]:
    rows = [[getattr(APPEARANCE[tissue], name) for tissue in Tissue] for name in (mean, spread)]
    table = torch.tensor(rows, dtype=torch.float32, device=device)
    return table[0], table[1]


def by_tissue(table: Tensor, tissues: Tensor) -> Tensor:
    """The table's value in each voxel; a table with batch axes has one row per volume."""
    index = tissues.int()
    if table.dim() > 1:
        volumes = torch.arange(table[..., 0].numel(), dtype=torch.int32, device=table.device)
        index += (volumes * table.shape[-1]).reshape(*table.shape[:-1], 1, 1, 1)
    return table.flatten().index_select(0, index.flatten()).reshape(tissues.shape)


def _any_of(tissues: Tensor, *members: Tissue) -> Tensor:
    """1 where the tissue is one of the members, else 0 (float32)."""
    found = tissues == int(members[0])
    for member in members[1:]:
        found |= tissues == int(member)
    return found.float()


def _white(like: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device).mul_(sigma)


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:10])
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"
