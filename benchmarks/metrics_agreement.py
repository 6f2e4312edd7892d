"""Our figures against independent implementations, on a real CT and on a simulated pair.

    python benchmarks/metrics_agreement.py

The real one is the CT of a thigh that ships with SynthCT, against itself blurred and shifted by a
voxel; the simulated one is that of metrics_speed.py at 96^3.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import ndimage
from skimage.metrics import normalized_mutual_information, structural_similarity

import metrics_speed
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.metrics.evaluation import evaluate
from SynthCTLib.resources import resource
from SynthCTLib.volume import Role, Volume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import monai.metrics as monai


def real() -> tuple[Volume, Volume, Volume]:
    ct = read_volume(resource("SampleData", "STS_014", "ct.nii.gz"), Role.CT)
    hu = ct.array.astype(np.float32)
    worse = ndimage.gaussian_filter(np.roll(hu, 1, axis=2), 1.0)
    return ct.with_array(hu), ct.with_array(worse), ct.mask(ndimage.binary_fill_holes(hu > -300))


def simulated() -> tuple[Volume, Volume, Volume]:
    metrics_speed.SIZE = 96
    reference, synthetic, masks = metrics_speed.head()
    mask = metrics_speed.volume(masks["head"].astype(np.uint8), Role.MASK)
    return metrics_speed.volume(reference), metrics_speed.volume(synthetic), mask


def independent(reference: Volume, synthetic: Volume, mask: Volume) -> list[tuple[str, str, float]]:
    """Key, who computed it, and the value."""
    where = mask.array > 0
    a, b = (
        torch.from_numpy(v.array[where].astype(np.float64))[None] for v in (reference, synthetic)
    )
    rows = [
        ("m.mae_hu", "MONAI", float(monai.MAEMetric()(b, a))),
        ("m.rmse_hu", "MONAI", float(monai.RMSEMetric()(b, a))),
        ("m.mse_hu2", "MONAI", float(monai.MSEMetric()(b, a))),
        (
            "m.psnr_db",
            "MONAI",
            float(monai.PSNRMetric(4096)(b.clamp(-1024, 3071), a.clamp(-1024, 3071))),
        ),
        ("m.pearson", "numpy", float(np.corrcoef(a[0], b[0])[0, 1])),
        (
            "m.normalised_mutual_information",
            "scikit-image",
            float(normalized_mutual_information(a[0].numpy(), b[0].numpy(), bins=100)),
        ),
    ]
    kept = [np.where(where, v.array.astype(np.float64), -1024) for v in (reference, synthetic)]
    _, full = structural_similarity(
        *(v.clip(-1024, 3000) + 1024 for v in kept), data_range=4024, full=True
    )
    inner = (slice(3, -3),) * 3
    rows.append(("m.ssim", "scikit-image", float(full[inner][where[inner]].mean())))
    whole = structural_similarity(
        *((v.clip(-1024, 3071) + 1024) * where for v in kept), data_range=4094
    )
    rows.append(("m.mssim_paper_2", "scikit-image", float(whole)))
    bones = [where & (v.array >= 300) for v in (reference, synthetic)]
    tensors = [torch.from_numpy(np.ascontiguousarray(v))[None, None].float() for v in bones]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows.append(("m.dice_bone", "MONAI", float(monai.compute_dice(tensors[1], tensors[0]))))
        spacing = reference.grid.spacing_mm[::-1]
        hd95 = monai.compute_hausdorff_distance(
            tensors[1], tensors[0], include_background=True, percentile=95, spacing=spacing
        )
    rows.append(("bone.hd95_mm", "MONAI", float(hd95)))
    return rows


def main() -> None:
    print("| pair | figure | ours | independent | by | difference |")
    print("|---|---|--:|--:|---|--:|")
    for name, images in (("real thigh", real()), ("simulated head", simulated())):
        ours = evaluate(*images[:2], {"m": images[2]}).flat()
        for key, by, value in independent(*images):
            print(
                f"| {name} | {key.removeprefix('m.')} | {ours[key]:.6g} | {value:.6g} | {by} | "
                f"{abs(ours[key] - value):.1e} |"
            )


if __name__ == "__main__":
    main()
