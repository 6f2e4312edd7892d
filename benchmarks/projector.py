"""Adjoint error and time of the PET projector, as a table in Markdown.

    python benchmarks/projector.py [--size 128] [--slices 32] [--angles 180] [--threads 2]

Random images; times as multiples of the forward projection without time of flight, the best of
three. One row without and one with time of flight (400 ps, bins of 200 ps). Needs no data.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

from SynthCTLib.physics.projector import Projector, TimeOfFlight

FIELD_MM = 512.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--angles", type=int, default=180)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, slices = arguments.size, arguments.slices
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


def best_of_three(run: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
