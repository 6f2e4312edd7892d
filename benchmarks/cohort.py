"""A cohort of real patients: how fast, and the same tables whoever does the work.

    python benchmarks/cohort.py --data-pack DIR [--patients N]

Each sarcoma patient's CT is judged against itself made worse in two ways (blurred, and blurred with
its bone cut to 300 HU), so that truth and registration are not in question; without reports of the
subjects. Done by one process, by two, and by two Dask workers of one thread, of which one is killed
half-way.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import SimpleITK as sitk

TABLES = ("figures.csv", "figures.json", "summary.csv", "comparisons.csv", "statistics.json")
METHODS = {"blurred": 3000.0, "soft-bone": 300.0}


def prepare(pack: Path, folder: Path, patients: int, shrink: int) -> Path:
    def save(image: sitk.Image, path: Path) -> Path:
        small = sitk.BinShrink(image, [shrink, shrink, 1])
        sitk.WriteImage(sitk.Cast(small, sitk.sitkInt16), str(path))
        return path

    rows = []
    for index, patient in enumerate(sorted((pack / "sts").glob("STS_*"))[:patients]):
        ct = sitk.ReadImage(str(patient / "ct.nii.gz"), sitk.sitkFloat32)
        reference = save(ct, folder / f"{patient.name}_ct.nii.gz")
        for method, highest in METHODS.items():
            made = sitk.SmoothingRecursiveGaussian(sitk.Clamp(ct, upperBound=highest), 1.0)
            path = save(made, folder / f"{patient.name}_{method}.nii.gz")
            rows.append([patient.name, method, reference, path, index % 5 + 1])
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["subject", "method", "reference_ct", "synthetic_ct", "fold"])
        writer.writerows(rows)
    return manifest


def cohort(manifest: Path, output: Path, *arguments: str) -> float:
    """Do the cohort; seconds."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from SynthCTLib.cli.main import main; main()", "evaluate",
         "--manifest", str(manifest), "--anatomy", "body", "--registration", "none", "--quiet",
         "--no-reports", "--no-pet-effect",
         "-o", str(output), *arguments],
        check=True,
    )  # fmt: skip
    return time.perf_counter() - start


def on_dask(manifest: Path, output: Path, folder: Path) -> float:
    at, log = folder / "scheduler.json", (folder / "dask.log").open("wb")
    dask = [sys.executable, "-m"]
    server = subprocess.Popen(
        [*dask, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--host",
         "127.0.0.1", "--scheduler-file", str(at)], stdout=log, stderr=log,
    )  # fmt: skip
    started = [server]
    try:
        while not at.exists():
            time.sleep(0.2)
        started += [
            subprocess.Popen(
                [*dask, "distributed.cli.dask_worker", "--scheduler-file", str(at), "--nthreads",
                 "1", "--no-nanny", "--no-dashboard"], stdout=log, stderr=log,
            )
            for _ in range(2)
        ]  # fmt: skip

        def kill_one() -> None:
            while len(list(output.glob("subjects/*/*/result.json"))) < 3:
                time.sleep(0.2)
            os.kill(started[-1].pid, signal.SIGKILL)

        threading.Thread(target=kill_one, daemon=True).start()
        time.sleep(10)  # the workers come up
        return cohort(manifest, output, "--scheduler", json.loads(at.read_text())["address"])
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=36)
    parser.add_argument("--shrink", type=int, default=1, help="average so many voxels in a plane")
    parser.add_argument("--out", type=Path, help="keep the cohorts here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        manifest = prepare(arguments.data_pack, folder, arguments.patients, arguments.shrink)
        jobs = 2 * arguments.patients
        seconds = {
            "1 process": cohort(manifest, folder / "one", "--processes", "1"),
            "2 processes": cohort(manifest, folder / "two", "--processes", "2"),
            "2 Dask workers, one killed": on_dask(manifest, folder / "dask", folder),
        }
        print("| how | jobs | failed | jobs a minute, to 1 process | tables as by 1 process |")
        print("|---|--:|--:|--:|---|")
        for how, name in zip(seconds, ("one", "two", "dask"), strict=True):
            same = all(
                (folder / "one" / t).read_bytes() == (folder / name / t).read_bytes()
                for t in TABLES
            )
            failed = len((folder / name / "failures.csv").read_text().splitlines()) - 1
            ratio = seconds["1 process"] / seconds[how]
            print(
                f"| {how} | {jobs} | {failed} | {ratio:.2f} | {'bit for bit' if same else 'NO'} |"
            )
        print(f"\n{jobs / seconds['1 process'] * 60:.1f} jobs a minute by 1 process.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
