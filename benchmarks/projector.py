"""Adjoint error and time of the PET projector, as a table in Markdown.

    python benchmarks/projector.py [--size 128] [--slices 32] [--angles 180] [--threads 2]
                                   [--reconstruct]

Random images; times as multiples of the forward projection without time of flight, the best of
three. One row without and one with time of flight (400 ps, bins of 200 ps). With ``--reconstruct``
instead one whole time-of-flight reconstruction (a scan of a cylinder with attenuation and noise,
OSEM of 2 iterations of 12 subsets): processor time and the largest memory. Needs no data.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import torch

from SynthCTLib.physics.projector import Projector, TimeOfFlight
from SynthCTLib.physics.reconstruction import (
    ReconstructionOptions,
    ScanOptions,
    reconstructed,
    simulated_scan,
)
from SynthCTLib.volume import Role, Unit, Volume

FIELD_MM = 512.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--angles", type=int, default=180)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reconstruct", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, slices = arguments.size, arguments.slices
    if arguments.reconstruct:
        return reconstruct(size, slices, arguments.angles, arguments.threads)
    print(
        f"{size} x {size} x {slices} voxels, {arguments.angles} angles, "
        f"{arguments.threads} threads; times / forward without time of flight.\n"
    )
    print("| events | matrix entries (M) | adjoint error | build | forward | adjoint |")
    print("|---|---|---|---|---|---|")
    unit_s = 0.0
    for name, timing in (("no time of flight", None), ("400 ps, bins of 200 ps", TimeOfFlight())):
        spacing = FIELD_MM / size
        start = time.perf_counter()
        projector = Projector((size, size), (spacing, spacing), arguments.angles, timing)
        build_s = time.perf_counter() - start
        generator = torch.Generator().manual_seed(0)
        image = torch.rand((slices, size, size), generator=generator)
        seen = projector.forward(image)
        sinogram = torch.rand(seen.shape, generator=generator)
        forth = float((seen.double() * sinogram.double()).sum())
        back = float((image.double() * projector.adjoint(sinogram).double()).sum())
        forward_s = best_of_three(lambda p=projector, x=image: p.forward(x))
        adjoint_s = best_of_three(lambda p=projector, y=sinogram: p.adjoint(y))
        unit_s = unit_s or forward_s
        ratios = " | ".join(f"{s / unit_s:.1f}" for s in (build_s, forward_s, adjoint_s))
        error = abs(forth - back) / abs(forth)
        print(f"| {name} | {projector.entries / 1e6:.1f} | {error:.0e} | {ratios} |", flush=True)
    return 0


def reconstruct(size: int, slices: int, angles: int, threads: int) -> int:
    """A cylinder of 20 cm with µ of water, uniform activity, scanned and reconstructed with TOF."""
    before_gib = peak_gib()
    y, x = (np.indices((size, size)) - (size - 1) / 2) * (FIELD_MM / size)
    inside = np.broadcast_to(x**2 + y**2 < 100.0**2, (slices, size, size))

    def volume(value: float, role: Role, unit: Unit) -> Volume:
        image = sitk.GetImageFromArray(np.where(inside, value, 0.0).astype(np.float32))
        image.SetSpacing((FIELD_MM / size, FIELD_MM / size, 3.0))
        return Volume(image, role, unit)

    activity = volume(1.0, Role.PET, Unit.SUV)
    mu = volume(0.096, Role.MU_MAP, Unit.PER_CM)
    begun = time.process_time()
    scan = simulated_scan(activity, mu, ScanOptions(angles, TimeOfFlight(), 1e6))
    scanned = time.process_time()
    pet = reconstructed(scan, mu, ReconstructionOptions(2, 12, smoothing_fwhm_mm=5.0))
    done = time.process_time()
    core = np.broadcast_to(x**2 + y**2 < 80.0**2, inside.shape)
    mean, sd = pet.array[core].mean(), pet.array[core].std()
    print(
        f"{size} x {size} x {slices} voxels, {angles} angles, {threads} threads, 400 ps, OSEM "
        f"2 x 12: scan {scanned - begun:.0f} s, reconstruction {done - scanned:.0f} s of processor "
        f"time, "
        f"{peak_gib():.1f} GiB at most ({before_gib:.1f} before); mean of the cylinder {mean:.3f} "
        f"(1 is true), SD {sd:.3f}."
    )
    return 0


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def best_of_three(run: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
