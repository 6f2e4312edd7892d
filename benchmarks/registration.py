"""Rigid registration: simulated heads with known truth, real limbs, and peers on the same pairs.

    python benchmarks/registration.py --data-pack DIR [--pairs 40] [--peers-python PATH]

1. MR and CT of simulated heads (real anatomies, the phantom's images). The CT is sampled on a
   clinical grid of its own and then moved as a rigid body by up to 30 degrees and 50 mm, so that
   the truth is known exactly; of every second one the lower 40 mm are cut off. Target registration
   error (TRE) over the head.
2. Real MR/CT pairs of limbs (sarcoma patients). The truth is not known: each pair is registered
   from where it lies and again with the CT moved by a known rigid transform, and the two answers
   are compared over the body. A refusal is counted as such.
3. The rigid registrations of ANTs (antspyx) and elastix (itk-elastix), in a Python of their own,
   on some pairs of 1, in turn with ours, all with 2 threads and as their authors set them up;
   times are of the registration call alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import RegistrationFailed
from SynthCTLib.imaging.files import read_label_map, read_volume, write_volume
from SynthCTLib.imaging.grids import resample
from SynthCTLib.imaging.masks import body_contour, head_mask
from SynthCTLib.imaging.table import remove_table
from SynthCTLib.phantom import PhantomOptions, clean_labels, make_pair
from SynthCTLib.registration import RigidOptions, examined, register_rigid
from SynthCTLib.volume import Grid, Role, Volume

HEADS = ("head_05", "head_12", "head_18", "head_01")
MOST_DEGREES, MOST_MM = 30.0, 50.0
LIMB_DEGREES, LIMB_MM = 20.0, 30.0
TARGETS = 2000
Points = npt.NDArray[np.float64]

# Each reads jobs, a line each, and answers with the seconds it took and a file of ITK's.
ANTS = """
import json, sys, time
import ants
for line in sys.stdin:
    job = json.loads(line)
    fixed, moving = ants.image_read(job["fixed"]), ants.image_read(job["moving"])
    begin = time.perf_counter(), time.process_time()
    found = ants.registration(fixed, moving, type_of_transform="Rigid")
    end = time.perf_counter(), time.process_time()
    print("ANSWER " + json.dumps({"seconds": end[0] - begin[0], "processor_s": end[1] - begin[1],
                                  "transform": found["fwdtransforms"][0]}), flush=True)
"""
ELASTIX = """
import json, sys, time
import itk
for line in sys.stdin:
    job = json.loads(line)
    fixed, moving = (itk.imread(job[key], itk.F) for key in ("fixed", "moving"))
    settings = itk.ParameterObject.New()
    rigid = settings.GetDefaultParameterMap("rigid", 4)
    rigid["AutomaticTransformInitialization"] = ["true"]
    settings.AddParameterMap(rigid)
    begin = time.perf_counter(), time.process_time()
    _, found = itk.elastix_registration_method(
        fixed, moving, parameter_object=settings, number_of_threads=2, log_to_console=False)
    end = time.perf_counter(), time.process_time()
    seconds, processor_s = end[0] - begin[0], end[1] - begin[1]
    end = found.GetParameterMap(0)
    path = job["fixed"].replace("_mr.nii.gz", "_elastix.txt")
    with open(path, "w") as file:
        file.write("#Insight Transform File V1.0\\nTransform: Euler3DTransform_double_3_3\\n")
        file.write("Parameters: " + " ".join(end["TransformParameters"]) + "\\n")
        file.write("FixedParameters: " + " ".join(end["CenterOfRotationPoint"]) + "\\n")
    print("ANSWER " + json.dumps({"seconds": seconds, "processor_s": processor_s,
                                  "transform": path}), flush=True)
"""
PEERS = {"ANTs": ANTS, "elastix": ELASTIX}


@dataclass(frozen=True)
class Case:
    """A fixed MR, a moving CT, and the true transform from MR to CT points (LPS mm)."""

    name: str
    mr: Volume
    ct: Volume
    truth: sitk.Transform
    targets: Points


def random_rigid(
    seed: int, centre: Points, most_degrees: float, most_mm: float
) -> sitk.Euler3DTransform:
    """A rotation by up to so many degrees about a random axis, and a shift of up to so many mm."""
    rng = np.random.default_rng(seed)
    axis, shift = rng.normal(size=3), rng.normal(size=3)
    angle = np.radians(most_degrees) * rng.uniform()
    turn = sitk.VersorTransform((axis / np.linalg.norm(axis)).tolist(), float(angle))
    transform = sitk.Euler3DTransform()
    transform.SetMatrix(turn.GetMatrix())
    transform.SetCenter(centre.tolist())
    transform.SetTranslation((shift / np.linalg.norm(shift) * most_mm * rng.uniform()).tolist())
    return transform


def moved(volume: Volume, transform: sitk.Euler3DTransform) -> Volume:
    """The same voxels, moved in space as a rigid body: nothing is resampled."""
    image = sitk.Image(volume.image)
    rotation = np.reshape(transform.GetMatrix(), (3, 3))
    direction = rotation @ np.reshape(image.GetDirection(), (3, 3))
    image.SetOrigin(transform.TransformPoint(image.GetOrigin()))
    image.SetDirection(direction.ravel().tolist())
    return volume.with_image(image)


def target_points(mask: Volume, seed: int) -> Points:
    """Random voxel centres of a mask, LPS mm, shape (n, 3)."""
    voxels = np.argwhere(mask.array > 0)[:, ::-1]
    chosen = np.random.default_rng(seed).choice(len(voxels), min(TARGETS, len(voxels)), False)
    index = np.column_stack([voxels[chosen], np.ones(len(chosen))])
    points: Points = (index @ mask.grid.index_to_world.T)[:, :3]
    return points


def target_errors_mm(found: sitk.Transform, truth: sitk.Transform, points: Points) -> Points:
    ours = np.array([found.TransformPoint(p) for p in points.tolist()])
    true = np.array([truth.TransformPoint(p) for p in points.tolist()])
    return np.linalg.norm(ours - true, axis=1)


def head_cases(pack: Path, count: int) -> Iterator[Case]:
    per_head = -(-count // len(HEADS))
    for number, name in enumerate(HEADS):
        labels = clean_labels(read_label_map(pack / "labels" / f"{name}.nii.gz"))
        pair = make_pair(labels, PhantomOptions(), seed=900 + number)
        targets = target_points(head_mask(pair.mr), number)
        for index in range(number * per_head, min(count, (number + 1) * per_head)):
            ct = clinical(pair.ct, index, cut_mm=40.0 if index % 2 else 0.0)
            centre = pair.ct.grid.centre_mm
            truth = random_rigid(index, centre, MOST_DEGREES, MOST_MM)
            yield Case(f"{name}/{index}", pair.mr, moved(ct, truth), truth, targets)


def clinical(ct: Volume, seed: int, cut_mm: float) -> Volume:
    """The CT on 0.98 x 0.98 x 2.5 mm axial slices, without the lowest ``cut_mm``.

    Where the slices begin is random: on the same voxels, every transform has the same error.
    """
    upright = sitk.DICOMOrient(ct.image, "LPS")
    block = Grid.of(upright)
    spacing = (0.98, 0.98, 2.5)
    begin = np.random.default_rng(seed).uniform(0, 1, 3) * spacing + (0, 0, cut_mm)
    extent = np.asarray(block.extent_mm) - begin
    x, y, z = (int(e / s) for e, s in zip(extent, spacing, strict=True))
    left, posterior, inferior = (np.asarray(block.origin_mm) + begin).tolist()
    grid = Grid((x, y, z), spacing, (left, posterior, inferior), block.direction)
    return resample(ct, grid)


def simulated_heads(pack: Path, count: int) -> None:
    medians, maxima, refused, seconds = [], [], 0, []
    for case in head_cases(pack, count):
        begin = time.perf_counter()
        try:
            found = register_rigid(case.mr, case.ct, RigidOptions(threads=2))
        except RegistrationFailed:
            refused += 1
            continue
        seconds.append(time.perf_counter() - begin)
        errors = target_errors_mm(found.transform, case.truth, case.targets)
        medians.append(float(np.median(errors)))
        maxima.append(float(errors.max()))
    print("| pairs | median TRE (mm) | largest TRE over the head (mm) | above 1 mm | refused |")
    print("|---|---|---|---|---|")
    print(
        f"| {count} | {np.median(medians):.2f} | {max(maxima):.2f} | "
        f"{sum(m >= 1 for m in maxima)} | {refused} |\n",
        flush=True,
    )


def real_limbs(pack: Path, moves: int, patients: list[str]) -> None:
    print(
        "| patient | normalised MI | difference of the answers (mm), median over the body "
        "| done again (mm) | in parts (mm) | 4 mm or more | said |\n|---|---|---|---|---|---|---|"
    )
    agreement, failures, unsaid = [], [], 0
    folders = sorted((pack / "sts").glob("STS_*"))
    for number, folder in enumerate(folders):
        if patients and folder.name not in patients:
            continue
        mr = read_volume(folder / "mr.nii.gz", Role.MR)
        ct = remove_table(read_volume(folder / "ct.nii.gz", Role.CT)).volume
        points = target_points(body_contour(mr), number)[:500]
        answers, said = [], []
        try:
            straight = register_rigid(mr, ct, RigidOptions(threads=2))
            straight = examined(mr, ct, straight, threads=2)
        except RegistrationFailed as error:
            failures.append(folder.name)
            print(f"| {folder.name} | | refused: {error} | | | | |", flush=True)
            continue
        fit = straight.fit
        assert fit is not None
        for index in range(moves):
            known = random_rigid(
                1000 + 10 * number + index, ct.grid.centre_mm, LIMB_DEGREES, LIMB_MM
            )
            try:
                found = register_rigid(mr, moved(ct, known), RigidOptions(threads=2))
            except RegistrationFailed:
                said.append("refused")
                failures.append(folder.name)
                continue
            back = sitk.CompositeTransform([known.GetInverse(), found.transform])
            answers.append(float(np.median(target_errors_mm(back, straight.transform, points))))
            said.append(f"{answers[-1]:.2f}")
        agreement += answers
        unsaid += sum(a >= 2 for a in answers) * (not straight.doubts)
        print(
            f"| {folder.name} | {straight.quality.mutual_information:.2f} | {', '.join(said)} "
            f"| {fit.repeat_mm:.2f} | {fit.misfit_mm:.1f} | {fit.misfit_share:.0%} "
            f"| {'yes' if straight.doubts else 'no'} |",
            flush=True,
        )
    print(
        f"\nN = {len(agreement)} answers; median {np.median(agreement):.2f} mm; above 2 mm: "
        f"{sum(a >= 2 for a in agreement)}, of which nothing was said of {unsaid}; refused: "
        f"{len(failures)}.\n"
    )


@dataclass(frozen=True)
class End:
    """How a registration ended: the largest error over the head, wall and processor time."""

    error_mm: float
    seconds: float
    processor_s: float


def against(peers: list[str], pack: Path, python: Path, count: int) -> None:
    ends: dict[str, list[End]] = {name: [] for name in ("SynthCT", *peers)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = {peer: started(folder / f"{peer}.py", PEERS[peer], python) for peer in peers}
        for index, case in enumerate(head_cases(pack, 4 * count)):
            if index % 4:
                continue
            fixed, moving = folder / f"{index}_mr.nii.gz", folder / f"{index}_ct.nii.gz"
            write_volume(case.mr, fixed)
            write_volume(case.ct, moving)
            begin = time.perf_counter(), time.process_time()
            found = register_rigid(case.mr, case.ct, RigidOptions(threads=2)).transform
            spent = time.perf_counter() - begin[0], time.process_time() - begin[1]
            worst = target_errors_mm(found, case.truth, case.targets).max()
            ends["SynthCT"].append(End(float(worst), *spent))
            for peer, process in running.items():
                answer = asked(process, {"fixed": str(fixed), "moving": str(moving)})
                theirs = sitk.ReadTransform(answer["transform"])
                worst = target_errors_mm(theirs, case.truth, case.targets).max()
                ends[peer].append(End(float(worst), answer["seconds"], answer["processor_s"]))
            print(case.name, {who: end[-1] for who, end in ends.items()}, file=sys.stderr)
        for process in running.values():
            process.terminate()
    print("| | " + " | ".join(ends) + " |")
    print("|---" * (len(ends) + 1) + "|")

    def ratios(who: str, time_of: Callable[[End], float]) -> list[float]:
        ours = ends["SynthCT"]
        return [time_of(a) / time_of(b) for a, b in zip(ends[who], ours, strict=True)]

    def errors(who: str) -> list[float]:
        return [end.error_mm for end in ends[who]]

    rows: dict[str, Callable[[str], str]] = {
        "pairs": lambda who: str(len(ends[who])),
        "largest TRE over the head, median (mm)": lambda who: f"{np.median(errors(who)):.3f}",
        "largest TRE over the head, mean (mm)": lambda who: f"{np.mean(errors(who)):.3f}",
        "largest TRE over the head, worst (mm)": lambda who: f"{max(errors(who)):.3f}",
        "above 1 mm": lambda who: str(sum(e >= 1 for e in errors(who))),
        "time / SynthCT's, median of the pairs": lambda who: (
            f"{np.median(ratios(who, lambda e: e.seconds)):.1f}"
        ),
        "time / SynthCT's, smallest of the pairs": lambda who: (
            f"{min(ratios(who, lambda e: e.seconds)):.1f}"
        ),
        "processor time / SynthCT's, median of the pairs": lambda who: (
            f"{np.median(ratios(who, lambda e: e.processor_s)):.1f}"
        ),
    }
    for title, value in rows.items():
        print(f"| {title} | " + " | ".join(value(who) for who in ends) + " |")


def started(script: Path, text: str, python: Path) -> subprocess.Popen[str]:
    """A peer that waits for jobs."""
    script.write_text(text)
    return subprocess.Popen(
        [str(python), str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2", "PATH": "/usr/bin:/bin"},
    )


def asked(peer: subprocess.Popen[str], job: dict[str, str]) -> dict[str, Any]:
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write(json.dumps(job) + "\n")
    peer.stdin.flush()
    for line in peer.stdout:
        if line.startswith("ANSWER "):
            answer: dict[str, Any] = json.loads(line.removeprefix("ANSWER "))
            return answer
    raise SystemExit("A peer ended without an answer.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--moves", type=int, default=2, help="known transforms a limb")
    parser.add_argument("--patients", nargs="*", default=[], help="limbs of these only")
    parser.add_argument("--peers-python", type=Path, help="Python that has the peers' packages")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peer-pairs", type=int, default=6)
    parser.add_argument("--only", choices=("heads", "limbs", "peers"))
    arguments = parser.parse_args()
    pack = arguments.data_pack
    if arguments.only in (None, "heads"):
        print(f"Simulated heads, CT moved by up to {MOST_DEGREES:g} degrees and {MOST_MM:g} mm.\n")
        simulated_heads(pack, arguments.pairs)
    if arguments.only in (None, "limbs"):
        print(f"Real limbs, CT moved by up to {LIMB_DEGREES:g} degrees and {LIMB_MM:g} mm.\n")
        real_limbs(pack, arguments.moves, arguments.patients)
    if arguments.peers_python and arguments.only in (None, "peers"):
        print(f"Against {' and '.join(arguments.peers)}, the same pairs in turn.\n")
        against(arguments.peers, pack, arguments.peers_python, arguments.peer_pairs)


if __name__ == "__main__":
    main()
