"""Every figure of an evaluation on a 256^3 pair: time, memory, and the ratio to other libraries.

    python benchmarks/metrics_speed.py

A simulated head (an ellipsoid with skull, scalp and a sinus, 1 mm) against itself shifted and made
noisy, in five masks. The others are scikit-image and SimpleITK, with numpy and scipy where neither
has the figure; they leave out the k-means and the error by tissue and by HU.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from skimage.metrics import (
    normalized_mutual_information,
    peak_signal_noise_ratio,
    structural_similarity,
)
from skimage.transform import radon

from SynthCTLib.metrics.evaluation import evaluate
from SynthCTLib.metrics.overlap import DICE_CURVE_HU, HU_CLASSES
from SynthCTLib.physics.mumap import convention_named
from SynthCTLib.volume import Role, Unit, Volume

Floats = npt.NDArray[np.float32]
Where = npt.NDArray[np.bool_]
SIZE = 256
REPEATS = 3


def head() -> tuple[Floats, Floats, dict[str, Where]]:
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    r = np.sqrt((z / 0.85) ** 2 + (y / 0.8) ** 2 + (x / 0.65) ** 2)
    hu = np.where(r < 1, 40.0, -1000.0).astype(np.float32)
    hu[(r < 0.95) & (r > 0.85)] = 900
    hu[((z - 0.1) ** 2 + (y + 0.4) ** 2 + x**2) < 0.02] = -1000
    hu += rng.normal(0, 20, hu.shape).astype(np.float32)
    made = ndimage.shift(hu, (1, 0, 1), order=1, mode="nearest")
    made += rng.normal(0, 40, hu.shape).astype(np.float32)
    whole = r < 1
    masks = {
        "head": whole,
        "brain": r < 0.84,
        "skull": whole & (hu >= 300),
        "soft_tissue": whole & (hu < 300) & (hu > -200),
        "air": whole & (hu <= -500),
    }
    return hu, made, masks


def volume(array: npt.NDArray[np.generic], role: Role = Role.CT) -> Volume:
    return Volume(
        sitk.GetImageFromArray(array), role, Unit.HU if role == Role.CT else Unit.ARBITRARY
    )


def scales(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], where: Where) -> float:
    """MS-SSIM of SynthRAD 2025 out of scikit-image's filters on the whole volume."""
    answer, c1, c2 = 1.0, (0.01 * 4024) ** 2, (0.03 * 4024) ** 2
    inner = (slice(3, -3),) * 3
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        mx, my, xx, yy, xy = (ndimage.uniform_filter(v, 7) for v in (x, y, x * x, y * y, x * y))
        vx, vy, vxy = (
            (m - a) * 343 / 342 for m, a in ((xx, mx * mx), (yy, my * my), (xy, mx * my))
        )
        alike = (2 * mx * my + c1) / (mx * mx + my * my + c1)
        alike *= ((2 * vxy + c2) / (vx + vy + c2)).clip(0)
        answer *= float((alike[inner][where[inner]] ** weight).mean())
        x, y = (ndimage.uniform_filter(v, 2, mode="constant")[::2, ::2, ::2] for v in (x, y))
        where = where[::2, ::2, ::2]
    return answer


def others(reference: Floats, synthetic: Floats, masks: dict[str, Where]) -> dict[str, float]:
    """The same figures by scikit-image and SimpleITK."""
    found: dict[str, float] = {}
    curve = convention_named("carney-140")
    for name, where in masks.items():
        a, b = (v[where].astype(np.float64) for v in (reference, synthetic))
        found[f"{name}.mae_hu"] = float(np.abs(b - a).mean())
        found[f"{name}.mse_hu2"] = float(((b - a) ** 2).mean())
        found[f"{name}.mean_error_hu"] = float((b - a).mean())
        for key, high, span in (("psnr_db", 3071, 4096), ("psnr_synthrad_db", 3000, 4024)):
            found[f"{name}.{key}"] = float(
                peak_signal_noise_ratio(a.clip(-1024, high), b.clip(-1024, high), data_range=span)
            )
        found[f"{name}.pearson"] = float(np.corrcoef(a, b)[0, 1])
        found[f"{name}.normalised_mutual_information"] = float(
            normalized_mutual_information(a, b, bins=100)
        )
        mu, other = curve.mu_per_cm(a), curve.mu_per_cm(b)
        found[f"{name}.mu_rmae_percent"] = float(100 * np.abs(other - mu).sum() / mu.sum())
        kept = [
            np.where(where, v.astype(np.float64), -1024).clip(-1024, 3000) + 1024
            for v in (reference, synthetic)
        ]
        _, full = structural_similarity(*kept, data_range=4024, full=True)
        inner = (slice(3, -3),) * 3
        found[f"{name}.ssim"] = float(full[inner][where[inner]].mean())
        found[f"{name}.ms_ssim"] = scales(kept[0], kept[1], where)
        kept = [
            (v.astype(np.float64).clip(-1024, 3071) + 1024) * where for v in (reference, synthetic)
        ]
        found[f"{name}.mssim_paper_2"] = float(structural_similarity(*kept, data_range=4094))
        bone = [
            sitk.GetImageFromArray((where & (v >= 300)).astype(np.uint8))
            for v in (reference, synthetic)
        ]
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*bone)
        found[f"{name}.jaccard_bone"] = overlap.GetJaccardCoefficient()
        found[f"{name}.dice_bone"] = overlap.GetDiceCoefficient()

    whole = masks["head"]
    bone = [
        sitk.GetImageFromArray((whole & (v >= 300)).astype(np.uint8))
        for v in (reference, synthetic)
    ]
    edges = [sitk.LabelContour(v) for v in bone]
    far = [
        sitk.GetArrayFromImage(sitk.Abs(sitk.SignedMaurerDistanceMap(v, False, False, True)))
        for v in edges
    ]
    shown = [sitk.GetArrayFromImage(v) > 0 for v in edges]
    forth, back = far[1][shown[0]], far[0][shown[1]]
    found["bone.hd95_mm"] = float(max(np.percentile(forth, 95), np.percentile(back, 95)))
    found["bone.mean_surface_mm"] = float(np.concatenate([forth, back]).mean())
    for low, below in (*HU_CLASSES.values(), *((t, np.inf) for t in DICE_CURVE_HU)):
        pair = [
            sitk.GetImageFromArray((whole & (v >= low) & (v < below)).astype(np.uint8))
            for v in (reference, synthetic)
        ]
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*pair)
    angles = np.arange(60) * 3.0
    apart = np.where(whole, curve.mu_per_cm(synthetic) - curve.mu_per_cm(reference), 0)
    small = apart.reshape(64, 4, 64, 4, 64, 4).mean(axis=(1, 3, 5))
    lines = np.array([radon(slice_, theta=angles, circle=False) for slice_ in small]) * 0.4
    found["lines.mae_percent"] = float(np.abs(100 * np.expm1(lines)).mean())
    return found


def fastest(work) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Least of the repeats, wall and processor seconds."""
    walls, cpus = [], []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def main() -> None:
    reference, synthetic, masks = head()
    images = volume(reference), volume(synthetic)
    volumes = {name: volume(m.astype(np.uint8), Role.MASK) for name, m in masks.items()}
    ours = fastest(lambda: evaluate(*images, volumes, threads=2))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    theirs = fastest(lambda: others(reference, synthetic, masks))
    print("| | processor time | wall time | peak memory | times faster, processor | wall |")
    print("|---|--:|--:|--:|--:|--:|")
    print(
        f"| every figure, five masks, {SIZE}^3 | {ours[1]:.1f} s | {ours[0]:.1f} s | "
        f"{peak_gb:.1f} GB | {theirs[1] / ours[1]:.1f} | {theirs[0] / ours[0]:.1f} |"
    )


if __name__ == "__main__":
    main()
