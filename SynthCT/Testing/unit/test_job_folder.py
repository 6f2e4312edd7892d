"""The job folder: what is written when, and what is never written."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from SynthCTLib.errors import Cancelled, InputError, OutputError
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import sha256_of
from SynthCTLib.workflow.finished import FinishedJob
from SynthCTLib.workflow.folder import JobFolder, digest_of
from SynthCTLib.workflow.request import JobRequest, request_from
from SynthCTLib.workflow.result import JobResult, OutputFile


def silent(event: ProgressEvent) -> None:
    del event


def never() -> bool:
    return False


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mr.nii.gz"
    path.write_bytes(b"image")
    return path


def request(path: Path, **entry: object) -> JobRequest:
    content = {"task": Task.MR_TO_CT, "inputs": {"mr": {"path": path, **entry}}}
    return JobRequest.model_validate(content)


def record(outputs: dict[str, OutputFile]) -> JobResult:
    return JobResult(
        subject="s",
        task="mr-to-ct",
        model="m",
        model_version="1",
        outputs=outputs,
        findings=(),
        notes=(),
        facts={},
        registration=None,
        provenance={},
        timings_s={},
        versions={},
    )


def finish(job: JobFolder, text: str = "ct", name: str = "ct.nii.gz") -> None:
    with job.running(silent, never) as progress:
        progress.stage("Working", 1.0)
        (job.outbox / name).write_text(text)
        job.publish(record)


def test_result_is_written_last_and_names_every_output(tmp_path: Path, source: Path) -> None:
    job = JobFolder.create(tmp_path / "job", request(source))
    finish(job)
    result = json.loads((job.path / "result.json").read_text())
    assert result["outputs"]["ct"]["path"] == "ct.nii.gz"
    assert result["outputs"]["ct"]["sha256"] == sha256_of(job.path / "ct.nii.gz")
    assert not job.work.exists()
    assert "Done." in (job.path / "log.txt").read_text()
    lines = (job.path / "progress.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["stage"] == "Working"


def test_missing_input_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        JobFolder.create(tmp_path / "job", request(tmp_path / "absent.nii.gz"))
    assert not (tmp_path / "job").exists()


def test_changed_input_is_refused(tmp_path: Path, source: Path) -> None:
    job = JobFolder.create(tmp_path / "job", request(source, sha256=sha256_of(source)))
    job.check_inputs()
    source.write_bytes(b"other")
    with pytest.raises(InputError, match="has changed"):
        job.check_inputs()


def test_a_changed_folder_mask_or_transform_is_refused(tmp_path: Path, source: Path) -> None:
    series = tmp_path / "series"
    (series / "deep").mkdir(parents=True)
    (series / "deep" / "1.dcm").write_bytes(b"slice")
    files = {"mask.lesion": tmp_path / "mask.nrrd", "transform": tmp_path / "t.h5"}
    for path in files.values():
        path.write_bytes(b"as it was")
    content = {
        "task": "mr-to-ct",
        "inputs": {"mr": {"path": series, "sha256": digest_of(series)}},
        "options": {
            "masks": {"lesion": files["mask.lesion"]},
            "transform": files["transform"],
            "sha256": {name: sha256_of(path) for name, path in files.items()},
        },
    }
    job = JobFolder.create(tmp_path / "job", JobRequest.model_validate(content))
    for path, said in (
        (files["mask.lesion"], "The mask lesion .* has changed"),
        (files["transform"], "The transform .* has changed"),
        (series / "deep" / "1.dcm", "The input mr .* has changed"),
    ):
        job.check_inputs()
        before = path.read_bytes()
        path.write_bytes(b"other")
        with pytest.raises(InputError, match=said):
            job.check_inputs()
        path.write_bytes(before)
    (series / "deep" / "2.dcm").write_bytes(b"slice")
    with pytest.raises(InputError, match="has changed"):
        job.check_inputs()


@pytest.mark.parametrize("option", ["transform", "masks"])
def test_files_of_the_options_stay_inside_the_folder_too(
    option: str, tmp_path: Path, source: Path
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    for path in (folder / "file.nrrd", tmp_path / "secret.nrrd"):
        path.write_bytes(b"file")

    def job(name: str) -> JobFolder:
        options = {option: name if option == "transform" else {"lesion": name}}
        content = {"task": Task.MR_TO_CT, "inputs": {"mr": {"path": source}}, "options": options}
        return JobFolder(folder, JobRequest.model_validate(content))

    job("file.nrrd").check_inputs()
    with pytest.raises(InputError, match="leaves the job folder"):
        job("../secret.nrrd").check_inputs()
    with pytest.raises(InputError, match="There is no file"):
        job("absent.nrrd").check_inputs()


def test_relative_input_stays_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "mr.nii.gz").write_bytes(b"image")
    (tmp_path / "secret.nii.gz").write_bytes(b"image")
    JobFolder(folder, request(Path("mr.nii.gz"))).check_inputs()
    with pytest.raises(InputError, match="leaves the job folder"):
        JobFolder(folder, request(Path("../secret.nii.gz"))).check_inputs()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"subject": "../x"}, "subject"),
        ({"model": "../atlas"}, "model"),
        ({"options": {"speed": 9}}, "speed"),
        ({"inputs": {}}, "needs an input"),
        ({"schema_version": 2}, "schema_version"),
        ({"inputs": {"mr": {"path": "a.nii", "unit": "HU"}}}, "the unit of mr is arbitrary"),
    ],
)
def test_wrong_requests_are_refused_by_name(change: dict[str, object], word: str) -> None:
    good = {"task": "mr-to-ct", "inputs": {"mr": {"path": "a.nii.gz"}}}
    request_from(json.dumps(good), "job.json")
    with pytest.raises(InputError, match=word):
        request_from(json.dumps(good | change), "job.json")


def test_earlier_result_is_kept_unless_told(tmp_path: Path, source: Path) -> None:
    job = JobFolder.create(tmp_path / "job", request(source))
    finish(job, "first", "ct_uncertainty.nii.gz")
    with pytest.raises(InputError, match="earlier result"):
        JobFolder.create(tmp_path / "job", request(source))
    again = JobFolder.create(tmp_path / "job", request(source), overwrite=True)
    with pytest.raises(Cancelled), again.running(silent, never):
        raise Cancelled
    assert (job.path / "ct_uncertainty.nii.gz").read_text() == "first"  # a failed run loses nothing
    finish(again, "second")
    assert not (job.path / "ct_uncertainty.nii.gz").exists()  # two results never mix
    assert (job.path / "ct.nii.gz").read_text() == "second"


@pytest.mark.parametrize("leads_out", ["../mine.txt", "masks/../../mine.txt", "..\\mine.txt"])
def test_an_earlier_result_that_names_files_elsewhere_deletes_none(
    leads_out: str, tmp_path: Path, source: Path
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    job = JobFolder.create(tmp_path / "job", request(source))
    finish(job)
    result = json.loads((job.path / "result.json").read_text())
    result["outputs"]["ct"]["path"] = leads_out
    (job.path / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="no result that this version"):
        FinishedJob.open(job.path)
    finish(JobFolder.create(tmp_path / "job", request(source), overwrite=True))
    assert mine.read_text() == "mine"
    FinishedJob.open(job.path)
    with pytest.raises(ValueError, match="leaves the job folder"):
        OutputFile(path=str(mine), sha256="")


def test_failure_leaves_no_output_and_cleans_up(tmp_path: Path, source: Path) -> None:
    job = JobFolder.create(tmp_path / "job", request(source))

    def fail(progress: Progress) -> None:
        (job.outbox / "ct.nii.gz").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), job.running(silent, never) as progress:
        fail(progress)
    assert {p.name for p in job.path.iterdir()} == {"job.json", "log.txt", "progress.jsonl"}
    assert "ZeroDivisionError" in (job.path / "log.txt").read_text()


def test_second_run_in_the_same_folder_is_refused(tmp_path: Path, source: Path) -> None:
    job = JobFolder.create(tmp_path / "job", request(source))
    with job.running(silent, never):
        with pytest.raises(InputError, match="Another run"):
            JobFolder.create(tmp_path / "job", request(source))
        assert job.outbox.is_dir()


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path, source: Path) -> None:
    job = JobFolder.create(tmp_path / "job", request(source))
    job.outbox.mkdir(parents=True)
    (job.outbox / "old.nii.gz").write_text("of a killed run")
    child = subprocess.Popen(["sleep", "0"])
    owner = {"pid": child.pid, "started": psutil.Process(child.pid).create_time()}
    child.wait()
    (job.work / "owner.json").write_text(json.dumps(owner))
    finish(job)
    assert not (job.path / "old.nii.gz").exists()


def test_folder_that_cannot_be_written(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        JobFolder.create(tmp_path / "file", request(source))
    with pytest.raises(OutputError, match="cannot be written"):
        JobFolder.create(tmp_path / "file" / "below", request(source))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_said_and_leaves_no_result(small_disk: Path, source: Path) -> None:
    job = JobFolder.create(small_disk / "job", request(source))
    with pytest.raises(OutputError, match="full"), job.running(silent, never):
        (job.outbox / "ct.nii.gz").write_bytes(bytes(200_000))
    assert not (job.path / "ct.nii.gz").exists()
    assert not (job.path / "result.json").exists()
    assert not job.work.exists()


def test_a_disk_that_is_full_at_the_very_end_leaves_no_output(
    small_disk: Path, source: Path
) -> None:
    """All outputs are there and the record of them finds no room."""
    job = JobFolder.create(small_disk / "job", request(source))

    def fill_up(outputs: dict[str, OutputFile]) -> JobResult:
        with contextlib.suppress(OSError), (small_disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        return record(outputs)

    def work() -> None:
        with job.running(silent, never):
            (job.outbox / "masks").mkdir()
            (job.outbox / "ct.nii.gz").write_bytes(bytes(4096))
            (job.outbox / "masks" / "head.nii.gz").write_bytes(bytes(4096))
            job.publish(fill_up)

    with pytest.raises(OutputError, match="full"):
        work()
    files = {p.name for p in job.path.rglob("*") if p.is_file()}
    assert files <= {"job.json", "log.txt", "progress.jsonl"}


def test_an_output_that_cannot_get_its_name_takes_the_others_back(
    tmp_path: Path, source: Path
) -> None:
    job = JobFolder.create(tmp_path / "job", request(source))
    (job.path / "mumap.nii.gz" / "in the way").mkdir(parents=True)

    def work() -> None:
        with job.running(silent, never):
            (job.outbox / "ct.nii.gz").write_text("ct")
            (job.outbox / "mumap.nii.gz").write_text("mu")
            job.publish(record)

    with pytest.raises(OutputError, match="cannot be written"):
        work()
    assert not (job.path / "ct.nii.gz").exists()
    assert not (job.path / "result.json").exists()
