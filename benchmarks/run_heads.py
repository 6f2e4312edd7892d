"""``synthct run`` on the real heads: limits of time and memory.

    python benchmarks/run_heads.py --data-pack DIR [--model NAME] [--heads NAME ...] [--cache DIR]

Each head is run as a user would, in a process of its own; its peak memory is that of the process.
The atlas pairs are made before (the first run ever makes them, which is timed as well). The time on
the clock depends on what else the machine does; the processor time of the run, against two cores
for as long as the limit, does not.
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
ATLASES = "atlas-"  # models that make their pairs once
RUN = (
    "import resource, sys; from SynthCTLib.cli.main import run_command; "
    "code = run_command(sys.argv[1:]); "
    "used = resource.getrusage(resource.RUSAGE_SELF); "
    "print(used.ru_utime + used.ru_stime, used.ru_maxrss); sys.exit(code)"
)


def run(mr: Path, out: Path, cache: Path, model: str) -> tuple[float, float, float]:
    """Minutes on the clock, minutes of one core, peak GiB."""
    begin = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "run", "--mr", str(mr), "-o", str(out)),
            *("--overwrite", "--quiet", "--threads", "2", "--cache", str(cache)),
            *("--model", model),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, kib = done.stdout.split()[-2:]
    return (time.perf_counter() - begin) / 60, float(seconds) / 60, int(kib) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--model", default="atlas-fusion")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/heads"))
    parser.add_argument("--cache", type=Path, help="with atlas pairs made before: no first run")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as new:
        runs = [(name, name) for name in arguments.heads]
        if not arguments.cache and arguments.model.startswith(ATLASES):
            runs.insert(0, (f"{runs[0][1]}, first run ever (makes the atlases)", runs[0][1]))
        print(f"Real heads, 2 cores, {arguments.model}; N = 1 each.\n")
        print(
            f"| head | under {LIMIT_MINUTES:g} min on the clock | processor time of 2 cores for "
            f"{LIMIT_MINUTES:g} min | under {LIMIT_GIB:g} GB peak |\n|---|---|---|---|"
        )
        for label, name in runs:
            mr = arguments.data_pack / "heads" / HEADS[name]
            out = arguments.out / HEADS[name].removesuffix(".nii.gz")
            minutes, core_minutes, gib = run(mr, out, arguments.cache or Path(new), arguments.model)
            print(
                f"| {label} | {yes(minutes, LIMIT_MINUTES)} | "
                f"{core_minutes / (2 * LIMIT_MINUTES):.0%} | {yes(gib, LIMIT_GIB)} |",
                flush=True,
            )


def yes(value: float, limit: float) -> str:
    return f"{'yes' if value < limit else 'NO'} ({value / limit:.0%} of it)"


if __name__ == "__main__":
    main()
