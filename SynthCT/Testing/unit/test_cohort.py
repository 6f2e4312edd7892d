"""Cohorts: manifests, jobs in parallel, what fails, what is resumed, and the same tables anyhow."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import InputError, MissingPackage
from SynthCTLib.synthesis.registry import Machine, Models
from SynthCTLib.workflow.cohort import cluster, work
from SynthCTLib.workflow.cohort.manifest import read_manifest
from SynthCTLib.workflow.cohort.processes import in_processes
from SynthCTLib.workflow.cohort.work import Task
from SynthCTLib.workflow.request import Slot

HEADING = ["subject", "method", "reference_ct", "synthetic_ct", "fold", "site", "age"]
SHAPE = (10, 30, 30)
TABLES = ("figures.csv", "figures.json", "summary.csv", "comparisons.csv", "statistics.json")
OPTIONS = (
    "--anatomy",
    "body",
    "--registration",
    "none",
    "--strata",
    "site",
    "--strata",
    "age",
    "--no-reports",
)


def limb(seed: int) -> np.ndarray:
    """A limb with its bone, HU."""
    y, x = np.ogrid[-1 : 1 : SHAPE[1] * 1j, -1 : 1 : SHAPE[2] * 1j]
    radius = np.broadcast_to(np.sqrt((y / 0.8) ** 2 + (x / (0.6 + 0.03 * seed)) ** 2), SHAPE)
    hu = np.where(radius < 1, 40.0, -1000.0)
    hu[radius < 0.35] = 900.0
    return hu + np.random.default_rng(seed).normal(0, 15, SHAPE)


def write(hu: np.ndarray, path: Path) -> str:
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    image.SetSpacing((5.0, 5.0, 6.0))
    sitk.WriteImage(image, str(path))
    return path.name


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects, two methods, and a manifest of them; one image is missing."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for i in range(3):
        hu = limb(i)
        reference = write(hu, folder / f"s{i}_ct.nii.gz")
        for method, sigma in (("sharp", 0.6), ("soft", 1.0)):
            noise = np.random.default_rng(i).normal(0, 20, SHAPE)
            made = ndimage.gaussian_filter(hu, sigma) + noise
            synthetic = write(made, folder / f"s{i}_{method}.nii.gz")
            values = [
                f"s{i}",
                method,
                reference,
                synthetic,
                str(i % 2 + 1),
                "AB"[i % 2],
                str(30 + i),
            ]
            rows.append(dict(zip(HEADING, values, strict=True)))
    rows[3]["synthetic_ct"] = "missing.nii.gz"  # in the middle: s1, soft
    write_manifest(folder / "manifest.csv", rows)
    return folder


def synthct(*arguments: object) -> int:
    return run_command([str(a) for a in arguments])


@pytest.fixture(scope="module")
def one(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort done by one process."""
    folder = tmp_path_factory.mktemp("one") / "cohort"
    arguments = ("--manifest", images / "manifest.csv", *OPTIONS, "--processes", 1, "-o", folder)
    assert synthct("evaluate", *arguments) == 0
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# From end to end


def test_every_subject_has_its_row(one: Path) -> None:
    rows = rows_of(one / "figures.csv")
    assert [(r["subject"], r["method"]) for r in rows] == [
        ("s0", "sharp"), ("s0", "soft"), ("s1", "sharp"), ("s2", "sharp"), ("s2", "soft"),
    ]  # fmt: skip
    assert (rows[0]["fold"], rows[0]["site"], rows[0]["age"]) == ("1", "A", "30")
    job = one / "subjects" / "s0" / "sharp"
    figures = json.loads((job / "metrics.json").read_text())
    assert float(rows[0]["body.mae_hu"]) == figures["evaluation"]["masks"][0]["mae_hu"]
    pet = figures["pet"]["masks"][0]
    assert float(rows[0]["body.pet_mae_percent"]) == pet["mae_percent"]
    assert float(rows[0]["body.pet_beyond_10"]) == pet["beyond"]["10"]
    definitions = json.loads((one / "figures.json").read_text())["definitions"]
    assert "µ-maps of the synthetic and of the reference CT" in definitions["pet_mean_percent"]
    assert {p.name for p in job.iterdir()} == {  # figures only: see the test with reports
        "job.json", "result.json", "metrics.json", "review.json", "progress.jsonl", "log.txt",
    }  # fmt: skip


def test_a_missing_file_in_the_middle_stops_nobody_else(one: Path) -> None:
    (failure,) = rows_of(one / "failures.csv")
    assert (failure["subject"], failure["method"]) == ("s1", "soft")
    assert failure["reason"].startswith("There is no file")
    assert "missing.nii.gz" in failure["reason"]
    page = (one / "cohort.html").read_text(encoding="utf-8")
    assert "missing.nii.gz" in page
    assert "1 failed" in page


def test_summary_and_comparison_are_those_of_the_figures(one: Path) -> None:
    figures = rows_of(one / "figures.csv")
    sharp = [float(r["body.mae_hu"]) for r in figures if r["method"] == "sharp"]
    found = {
        (r["method"], r["group"], r["value"], r["figure"]): r for r in rows_of(one / "summary.csv")
    }
    overall = found["sharp", "", "", "body.mae_hu"]
    assert float(overall["mean"]) == pytest.approx(np.mean(sharp))
    assert float(overall["sd"]) == pytest.approx(np.std(sharp, ddof=1))
    assert float(found["sharp", "fold", "1", "body.mae_hu"]["mean"]) == pytest.approx(
        np.mean([sharp[0], sharp[2]])
    )
    assert found["sharp", "site", "B", "body.mae_hu"]["n"] == "1"
    compared = {r["figure"]: r for r in rows_of(one / "comparisons.csv")}
    assert compared["body.mae_hu"]["n"] == "2"
    assert float(compared["body.mae_hu"]["mean"]) > 0  # the soft one is worse


def test_page_holds_all_it_needs(one: Path) -> None:
    page = (one / "cohort.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    for words in ("Methods compared", "By fold, mean ± SD", "Worst cases", "Bland-Altman"):
        assert words in page


def test_reports_are_shown_in_the_gallery_of_the_worst(images: Path, tmp_path: Path) -> None:
    row = rows_of(images / "manifest.csv")[0]
    for path in images.glob("s0*"):
        shutil.copy(path, tmp_path)
    write_manifest(tmp_path / "m.csv", [row])
    arguments = ("--manifest", tmp_path / "m.csv", *OPTIONS[:-1], "--keep-images")
    assert synthct("evaluate", *arguments, "-o", tmp_path / "out", "--quiet") == 0
    job = tmp_path / "out" / "subjects" / "s0" / "sharp"
    assert (job / "report.html").is_file()
    assert (job / "difference.nii.gz").is_file()
    page = (tmp_path / "out" / "cohort.html").read_text(encoding="utf-8")
    assert 'href="subjects/s0/sharp/report.html"' in page
    shown = base64.b64encode((job / "figures" / "difference.png").read_bytes()).decode()
    assert shown in page


def test_two_processes_give_the_same_bytes(images: Path, one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    arguments = ("--manifest", images / "manifest.csv", *OPTIONS, "--processes", 2, "-o", folder)
    assert synthct("evaluate", *arguments, "--quiet") == 0
    same_tables(one, folder)


def same_tables(first: Path, second: Path) -> None:
    for name in TABLES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_the_same_command_does_only_what_is_left(
    images: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "images"
    shutil.copytree(images, copied)
    (copied / "s1_soft.nii.gz").rename(copied / "missing.nii.gz")  # what was missing is there now
    folder = tmp_path / "cohort"
    arguments = ("--manifest", copied / "manifest.csv", *OPTIONS, "--processes", 1, "-o", folder)
    first = [r for r in rows_of(copied / "manifest.csv") if r["subject"] != "s2"]
    write_manifest(copied / "part.csv", first)
    part = ("--manifest", copied / "part.csv", *arguments[2:])
    assert synthct("evaluate", *part) == 0
    times = {p: p.stat().st_mtime_ns for p in folder.glob("subjects/*/*/result.json")}
    assert len(times) == 4
    changed = folder / "subjects" / "s0" / "soft" / "result.json"
    write(limb(0) + 50, copied / "s0_soft.nii.gz")  # an input that is another one now
    assert synthct("evaluate", *arguments) == 0
    assert "3 of 6 were done before" in capsys.readouterr().err
    for path, before in times.items():
        assert (path.stat().st_mtime_ns == before) == (path != changed)
    assert len(rows_of(folder / "figures.csv")) == 6
    assert not rows_of(folder / "failures.csv")


def test_a_mask_that_was_changed_is_no_reason_to_keep_a_result(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = (limb(0) > 500).astype(np.int16)
    row = {
        "subject": "s0",
        "reference_ct": str(images / "s0_ct.nii.gz"),
        "synthetic_ct": str(images / "s0_sharp.nii.gz"),
        "mask.lesion": write(mask, tmp_path / "mask.nii.gz"),
    }
    write_manifest(tmp_path / "m.csv", [row])
    quick = ("--anatomy", "body", "--registration", "none", "--no-reports", "--no-pet-effect")
    asked = ("evaluate", "--manifest", tmp_path / "m.csv", *quick, "-o", tmp_path / "out")
    voxels = []
    for change in (0, 1):
        mask[:change] = 0
        write(mask, tmp_path / "mask.nii.gz")
        assert synthct(*asked, "--processes", 1) == 0
        figures = json.loads(
            (tmp_path / "out/subjects/s0/synthetic/metrics.json").read_text()
        )["evaluation"]["masks"]  # fmt: skip
        voxels.append(next(r["voxels"] for r in figures if r["mask"] == "lesion"))
        assert "done before" not in capsys.readouterr().err
    assert voxels[0] > voxels[1] > 0


def test_stopping_keeps_what_is_done(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    command = [
        sys.executable, "-c", "from SynthCTLib.cli.main import main; main()", "evaluate",
        "--manifest", str(images / "manifest.csv"), *OPTIONS, "--processes", "1",
        "-o", str(folder), "--quiet",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(folder.glob("subjects/*/*/result.json")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "the same command goes on" in said
    assert not (folder / "cohort.html").exists()
    assert not (folder / ".stop").exists()
    assert not list(folder.glob("subjects/*/*/work"))


def wait_for(condition, seconds: float = 120.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# What fails


def failing(tmp_path: Path, **files: np.ndarray) -> str:
    """The reason why a pair of images cannot be evaluated, as a cohort tells it."""
    good = write(limb(0), tmp_path / "good.nii.gz")
    rows = [{"subject": "good", "reference_ct": good, "synthetic_ct": good}]
    bad = {"subject": "bad", "reference_ct": good, "synthetic_ct": good}
    rows.append(
        bad | {slot: write_raw(hu, tmp_path / f"{slot}.nii.gz") for slot, hu in files.items()}
    )
    write_manifest(tmp_path / "m.csv", rows)
    code = synthct(
        "evaluate", "--manifest", tmp_path / "m.csv", "--anatomy", "body", "--processes", 1,
        "--no-reports", "-o", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert code == 0
    (failure,) = rows_of(tmp_path / "out" / "failures.csv")
    assert failure["subject"] == "bad"
    return failure["reason"]


def write_raw(values: np.ndarray, path: Path) -> str:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((5.0, 5.0, 6.0))
    sitk.WriteImage(image, str(path))
    return path.name


def test_a_mu_map_given_as_ct_is_named(tmp_path: Path) -> None:
    mu = np.maximum(0, 9.6e-5 * (limb(0) + 1000)).astype(np.float32)
    reason = failing(tmp_path, synthetic_ct=mu)
    assert "looks like a µ-map" in reason
    assert "\n" not in reason


def test_a_wrong_unit_is_named(tmp_path: Path) -> None:
    raw = (limb(0) + 1024).astype(np.int16)
    reason = failing(tmp_path, reference_ct=raw)
    assert "1024" in reason or "intercept" in reason.lower() or "HU" in reason


def test_images_that_do_not_meet_are_named(tmp_path: Path) -> None:
    far = sitk.GetImageFromArray(limb(0).astype(np.int16))
    far.SetSpacing((5.0, 5.0, 6.0))
    far.SetOrigin((5000.0, 0.0, 0.0))
    sitk.WriteImage(far, str(tmp_path / "far.nii.gz"))
    good = write(limb(0), tmp_path / "good.nii.gz")
    code = synthct(
        "evaluate", "--reference", tmp_path / "far.nii.gz", "--synthetic", tmp_path / good,
        "--anatomy", "body", "--registration", "none", "-o", tmp_path / "one", "--quiet",
    )  # fmt: skip
    assert code == 2
    assert not (tmp_path / "one" / "result.json").exists()


def test_when_all_fail_it_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(
        tmp_path / "m.csv", [{"subject": "a", "reference_ct": "x.nii", "synthetic_ct": "y.nii"}]
    )
    code = synthct("evaluate", "--manifest", tmp_path / "m.csv", "-o", tmp_path / "out", "--quiet")
    assert code == 2
    said = capsys.readouterr().err
    assert "Not one of 1 succeeded, the first because: There is no file" in said
    assert rows_of(tmp_path / "out" / "failures.csv")[0]["subject"] == "a"


def test_a_killed_process_is_replaced_and_its_task_done_again(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    killed = threading.Event()

    def kill_one() -> None:
        def at_work() -> list[psutil.Process]:
            """The process of the pool, once a job is begun."""
            begun = list(folder.glob("subjects/*/*/job.json"))
            children = psutil.Process().children() if begun else []
            return [c for c in children if "spawn_main" in " ".join(c.cmdline())]

        wait_for(at_work)
        at_work()[0].kill()
        killed.set()

    killer = threading.Thread(target=kill_one)
    killer.start()
    arguments = ("--manifest", images / "manifest.csv", *OPTIONS, "--processes", 1, "-o", folder)
    assert synthct("evaluate", *arguments, "--quiet") == 0
    killer.join()
    assert killed.is_set()
    assert [r["subject"] for r in rows_of(folder / "failures.csv")] == ["s1"]
    assert len(rows_of(folder / "figures.csv")) == 5


def test_a_task_that_loses_its_process_twice_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SynthCTLib.workflow.cohort import processes

    # What the system does when memory is short: the process is gone, without a word.
    monkeypatch.setattr(processes, "do_task", _die)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    tasks = [Task(0, tmp_path / "a", "{}", tmp_path)]
    (done,) = in_processes(tasks, 1, lambda: False)
    assert done.index == 0
    assert "killed twice" in (done.reason or "")


def _die(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_another_folder_is_not_written_into(images: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    code = synthct("evaluate", "--manifest", images / "manifest.csv", "-o", tmp_path)
    assert code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--reference", "x.nii"), "leave out the others"),
        (("--processes", "2", "--scheduler", "tcp://h:1"), "not both"),
        (("--figure", "head.beauty"), "no figure"),
        (("--figure", "mae_hu"), "no figure"),
        (("--figure", "skull.mae_hu"), "no figure 'skull.mae_hu' in this cohort"),
    ],
)
def test_wrong_usage_is_one_sentence(
    images: Path, one: Path, arguments: tuple[str, ...], why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code = synthct(
        "evaluate",
        "--manifest",
        images / "manifest.csv",
        *OPTIONS,
        *arguments,
        "-o",
        one,
        "--quiet",
    )
    assert code == 2
    assert why in capsys.readouterr().err


def test_evaluate_needs_a_pair_or_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthct("evaluate", "-o", tmp_path / "x") == 2
    assert "or --manifest" in capsys.readouterr().err


# Synthesis of many


def test_a_model_is_opened_once() -> None:
    models, machine = Models(), Machine("cpu", 1)
    first = models.open("uniform-body", machine)
    assert models.open("uniform-body", machine) is first
    assert models.open("uniform-body", Machine("cpu", 2)) is not first


def test_run_with_a_manifest_makes_and_evaluates(images: Path, tmp_path: Path) -> None:
    rows = [
        {"subject": f"s{i}", "mr": "mr.nii.gz", "reference_ct": f"s{i}_ct.nii.gz"} for i in range(2)
    ]
    for path in images.glob("s?_ct.nii.gz"):
        shutil.copy(path, tmp_path)
    hu = limb(0)  # fat and muscle bright, bone and air dark, with noise
    signal = np.where(hu > 300, 60.0, np.where(hu > -500, 400.0, 0.0))
    noise = np.random.default_rng(0).normal(0, 12, (2, *SHAPE))
    mr = np.hypot(ndimage.gaussian_filter(signal, 0.7) + noise[0], noise[1])
    write_raw(mr.astype(np.float32), tmp_path / "mr.nii.gz")
    write_manifest(tmp_path / "m.csv", rows)
    code = synthct(
        "run", "--manifest", tmp_path / "m.csv", "--model", "uniform-body",
        "--registration", "none", "--no-reports", "--processes", 1,
        "-o", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert code == 0
    assert {r["method"] for r in rows_of(tmp_path / "out" / "figures.csv")} == {"uniform-body"}
    assert (tmp_path / "out" / "subjects" / "s1" / "uniform-body" / "mumap.nii.gz").is_file()


@pytest.mark.parametrize(
    ("model", "made_from", "reference"),
    [("virtual-pet", "ct", "reference_pet"), ("vq-triplanar", "nac_pet", "reference_ct")],
)
def test_the_model_of_a_cohort_names_its_task_and_so_its_files(
    model: str, made_from: str, reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images cannot be read, so that each job says no as soon as it is begun."""
    row = {"subject": "a"}
    for name in ("mr", "ct", "nac_pet", "reference_ct", "reference_pet"):
        (tmp_path / f"{name}.nrrd").write_text("no image")
        row[name] = f"{name}.nrrd"
    write_manifest(tmp_path / "m.csv", [row])
    code = synthct(
        "run", "--manifest", tmp_path / "m.csv", "--model", model, "--processes", 1,
        "-o", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert code == 2
    assert f"{made_from}.nrrd" in capsys.readouterr().err
    job = json.loads((tmp_path / "out" / "subjects" / "a" / model / "job.json").read_text())
    assert set(job["inputs"]) == {made_from, reference}


def test_an_unknown_figure_is_refused_before_any_work(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("evaluate", "--manifest", images / "manifest.csv", *OPTIONS, "--figure", "head.mae_ct")
    assert synthct(*asked, "-o", tmp_path / "out") == 2
    assert "There is no figure 'head.mae_ct'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_of_a_cohort_is_refused_before_any_work(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("run", "--manifest", images / "manifest.csv", "--model", "none-such")
    assert synthct(*asked, "-o", tmp_path / "out") == 2
    assert "There is no model named 'none-such'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Compare


def test_compare_of_two_cohorts(images: Path, one: Path, tmp_path: Path) -> None:
    rows = rows_of(images / "manifest.csv")
    for path in images.glob("*.nii.gz"):
        shutil.copy(path, tmp_path)
    write_manifest(tmp_path / "again.csv", [r | {"method": "again"} for r in rows[1::4]])
    arguments = ("--manifest", tmp_path / "again.csv", *OPTIONS, "--processes", 1)
    assert synthct("evaluate", *arguments, "-o", tmp_path / "again", "--quiet") == 0
    assert synthct("compare", one, tmp_path / "again", "-o", tmp_path / "both", "--quiet") == 0
    found = rows_of(tmp_path / "both" / "comparisons.csv")
    pairs = {(r["first"], r["second"]): r for r in found if r["figure"] == "body.mae_hu"}
    assert set(pairs) == {("sharp", "soft"), ("sharp", "again"), ("soft", "again")}
    same = pairs["soft", "again"]  # the same images under another name
    assert (same["n"], float(same["mean"]), same["t_p"]) == ("2", 0.0, "")
    assert synthct("compare", one, tmp_path / "again", "-o", tmp_path / "both") == 2
    assert synthct("compare", one, one, "-o", tmp_path / "same") == 2  # the same name twice


def test_compare_refuses_what_it_cannot_compare(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthct("compare", tmp_path, one, "-o", tmp_path / "x") == 2
    assert "holds no finished cohort" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    content = json.loads((one / "figures.json").read_text())
    for record in content["records"]:
        record["subject"], record["method"] = "t" + record["subject"], "third"
    content["records"] = content["records"][:1]
    (other / "figures.json").write_text(json.dumps(content))
    assert synthct("compare", other, "-o", tmp_path / "x") == 2
    assert "one method to compare" in capsys.readouterr().err


# Manifests


def manifest(tmp_path: Path, text: str, name: str = "m.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_says_where_its_files_are(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "\ufeffsubject, method,reference_ct,synthetic_ct,mask.lesion,transform,age\n"
        "a,m,r.nii,/s.nii,l.nii,t.h5,40\n\n"
        "b,m,r.nii,,,,\n",
    )
    first, second = read_manifest(path, ["age"])
    assert first.files == {Slot.REFERENCE_CT: tmp_path / "r.nii", Slot.SYNTHETIC_CT: Path("/s.nii")}
    assert first.masks == {"lesion": tmp_path / "l.nii"}
    assert first.transform == tmp_path / "t.h5"
    assert first.strata == {"age": "40"}
    assert (second.files, second.strata) == ({Slot.REFERENCE_CT: tmp_path / "r.nii"}, {})


@pytest.mark.parametrize(
    ("text", "strata", "why"),
    [
        ("subject,method\na,m\na,m\n", (), "names the subject a twice with the method m"),
        ("subject\na\na\n", (), "names the subject a twice:"),
        ("method\nm\n", (), "no column 'subject'"),
        ("subject,colour\na,red\n", (), "a column 'colour' that SynthCT does not know"),
        ("subject,mask.My Mask\na,red\n", (), "does not know"),
        ("subject\na\n", ("site",), "no column 'site'"),
        ("subject,mr,mr\na,x,y\n", (), "two columns 'mr'"),
        ("subject,mr\n,x.nii\n", (), "the subject ''"),
        ("subject,mr\n../evil,x.nii\n", (), "the subject '../evil'"),
        ("subject,method\na,b/c\n", (), "the method 'b/c'"),
        ("subject,mr\na,b,c\n", (), "another number of fields"),
        ("subject,mr\na\n", (), "another number of fields"),
        ("subject,mr\n", (), "names no subject"),
        ('subject,mr\na,"b\n', (), "is no CSV"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    text: str, strata: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read_manifest(manifest(tmp_path, text), strata)
    assert why in str(caught.value)


def test_a_manifest_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "m.csv")


def bids(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_a_bids_folder_is_a_manifest(tmp_path: Path) -> None:
    root = bids(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/ct/sub-01_ct.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "derivatives/unet/sub-01/ct/sub-01_space-T1w_desc-synth_ct.nii.gz",
        "derivatives/unet/sub-02/ct/sub-02_space-T1w_desc-synth_ct.nii.gz",
        "derivatives/atlas/sub-01/sub-01_space-T1w_desc-synth_ct.nii",
        "derivatives/atlas/sub-03/sub-03_space-T1w_desc-synth_ct.nii",
    )
    manifest(root, "participant_id\tage\nsub-01\t40\nsub-02\tn/a\n", "participants.tsv")
    entries = read_manifest(root, ["age"])
    assert [(e.subject, e.method) for e in entries] == [
        ("sub-01", "atlas"), ("sub-01", "unet"), ("sub-02", "unet"),
    ]  # fmt: skip
    assert entries[0].files[Slot.REFERENCE_CT] == root / "sub-01/ct/sub-01_ct.nii.gz"
    assert Slot.REFERENCE_CT not in entries[2].files  # will be told among the failures
    assert (entries[0].strata, entries[2].strata) == ({"age": "40"}, {})


def test_bids_sessions_and_doubts(tmp_path: Path) -> None:
    root = bids(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
    )
    assert [e.subject for e in read_manifest(root)] == ["sub-01_ses-a", "sub-01_ses-b"]
    bids(root, "sub-01/ses-b/anat/sub-01_ses-b_run-2_T1w.nii.gz")
    with pytest.raises(InputError, match="2 images that may be the T1-weighted MR"):
        read_manifest(root)
    with pytest.raises(InputError, match="strata need it"):
        read_manifest(root, ["age"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"holds no sub-\* folder"):
        read_manifest(empty)


# Many machines


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, processes of their own; the address and the workers."""
    pytest.importorskip("distributed")
    at = tmp_path / "scheduler.json"
    log = (tmp_path / "dask.log").open("wb")
    common = {"stdout": log, "stderr": log, "cwd": tmp_path}
    server = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard",
         "--host", "127.0.0.1", "--scheduler-file", str(at)], **common,
    )  # fmt: skip
    started = [server]
    try:
        wait_for(at.exists)
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(at),
                 "--nthreads", "1", "--no-nanny", "--no-dashboard"], **common,
            )
            for _ in range(2)
        ]  # fmt: skip
        started += workers
        yield json.loads(at.read_text())["address"], workers
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
        log.close()


@pytest.mark.filterwarnings("ignore")  # of Dask's own
def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(
    images: Path,
    one: Path,
    tmp_path: Path,
    dask: tuple[str, list[subprocess.Popen[bytes]]],
) -> None:
    address, workers = dask
    wait_for_workers(address, 2)
    folder = tmp_path / "cohort"
    killed = []

    def kill_one() -> None:
        """A worker that is at work, or, where none is caught at it, one of the two."""

        def owner() -> int | None:
            for path in folder.glob("subjects/*/*/work/owner.json"):
                try:
                    return int(json.loads(path.read_text())["pid"])
                except (OSError, ValueError):
                    continue
            done = list(folder.glob("subjects/*/*/result.json"))
            return workers[0].pid if len(done) > 2 else None

        wait_for(lambda: killed.append(owner()) or killed[-1] is not None)
        os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    arguments = ("--manifest", images / "manifest.csv", *OPTIONS, "--scheduler", address)
    assert synthct("evaluate", *arguments, "-o", folder, "--quiet") == 0
    killer.join()
    assert killed[-1] in [w.pid for w in workers]
    assert sorted(w.poll() is None for w in workers) == [False, True]
    same_tables(one, folder)


@pytest.mark.filterwarnings("ignore")  # of Dask's own
def test_a_cluster_whose_last_worker_is_gone_says_that_it_waits(
    tmp_path: Path,
    dask: tuple[str, list[subprocess.Popen[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from distributed import Client

    address, workers = dask
    wait_for_workers(address, 2)
    for worker in workers:
        worker.kill()
    with Client(address, set_as_default=False) as client:
        wait_for(lambda: not client.nthreads())
    monkeypatch.setattr(cluster, "_check_workers", lambda client, address: None)  # they were there
    said: list[str] = []
    task = Task(0, tmp_path / "a", "{}", tmp_path)
    (done,) = cluster.on_scheduler([task], address, lambda: bool(said), said.append)
    assert done.cancelled
    assert len(said) == 1
    assert f"No worker of {address} is left" in said[0]


def wait_for_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False, timeout=60) as client:
        client.wait_for_workers(count, timeout=120)


def test_no_scheduler_is_said(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_CONNECT_S", 0.5)
    task = Task(0, tmp_path / "a", "{}", tmp_path)
    with pytest.raises(InputError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(cluster.on_scheduler([task], "tcp://127.0.0.1:9", lambda: False, print))


@pytest.mark.parametrize(
    "address", ["nonsense", "http://host:8786", "tcp://host", "host:port", "tcp://a:1/b", ""]
)
def test_what_is_no_address_of_a_scheduler_is_refused_at_once(address: str, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    task = Task(0, tmp_path / "a", "{}", tmp_path)
    with pytest.raises(InputError, match="none of a Dask scheduler: give one such as tcp://"):
        list(cluster.on_scheduler([task], address, lambda: False, print))


@pytest.mark.parametrize("address", ["tcp://host-1.x:8786", "10.0.0.1:80", "tls://[fe80::1]:9"])
def test_usual_addresses_of_a_scheduler_are_taken(address: str) -> None:
    assert cluster._ADDRESS.fullmatch(address)


def test_without_dask_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    task = Task(0, tmp_path / "a", "{}", tmp_path)
    with pytest.raises(MissingPackage, match=r"pip install 'SynthCT\[cluster\]'"):
        list(cluster.on_scheduler([task], "tcp://127.0.0.1:9", lambda: False, print))


def test_a_bug_is_one_failing_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str, where: str) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(work, "request_from", broken)
    done = work.do_task(Task(3, tmp_path / "job", "{}", tmp_path))
    assert (done.index, done.cancelled) == (3, False)
    assert "a bug in SynthCT (ZeroDivisionError: oops)" in (done.reason or "")
    assert "ZeroDivisionError" in (tmp_path / "job" / "log.txt").read_text()
