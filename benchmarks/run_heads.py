"""``synthct run`` with the default model on the real heads: limits of time and memory.

    python benchmarks/run_heads.py --data-pack DIR [--out DIR]

Each head is run as a user would, in a process of its own; its peak memory is that of the process.
The atlas pairs are made before (the first run ever makes them, which is timed as well).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEADS = {
    "adult, 1 mm, cut at mid-face": "adult_t1_1mm_no_neck.nii.gz",
    "3-year-old, 0.9 mm": "child_3y_t1.nii.gz",
    "adult, 1.6 mm": "adult_t1_1.6mm_neck.nii.gz",
    "Colin 27, 1 mm": "colin27_t1.nii.gz",
}
LIMIT_MINUTES, LIMIT_GIB = 3.0, 4.0
RUN = (
    "import resource, sys; from SynthCTLib.cli.main import run_command; "
    "code = run_command(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
)


def run(mr: Path, out: Path, cache: Path) -> tuple[float, float]:
    begin = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "run", "--mr", str(mr), "-o", str(out)),
            *("--overwrite", "--quiet", "--threads", "2", "--cache", str(cache)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return (time.perf_counter() - begin) / 60, int(done.stdout.split()[-1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/heads"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        names = iter(HEADS.items())
        label, file = next(names)
        first, _ = run(arguments.data_pack / "heads" / file, arguments.out / file[:-7], Path(cache))
        print("Real heads, 2 cores, default model; N = 1 each.\n")
        print(
            f"| head | under {LIMIT_MINUTES:g} min | under {LIMIT_GIB:g} GB peak |\n|---|---|---|"
        )
        print(f"| {label}, first run ever (makes the atlases) | {yes(first, LIMIT_MINUTES)} | |")
        for label, file in HEADS.items():
            minutes, gib = run(
                arguments.data_pack / "heads" / file, arguments.out / file[:-7], Path(cache)
            )
            print(
                f"| {label} | {yes(minutes, LIMIT_MINUTES)} | {yes(gib, LIMIT_GIB)} ({gib:.1f}) |",
                flush=True,
            )


def yes(value: float, limit: float) -> str:
    return f"{'yes' if value < limit else 'NO'} ({value / limit:.0%} of it)"


if __name__ == "__main__":
    main()
