"""The worker as a process: it stops when told, and never outlives who started it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from SynthCTLib.resources import resource

SAMPLE = resource("SampleData", "STS_014")
LAUNCHER = '#!/bin/sh\n"$PYTHON" "$@"\nexit $?\n'  # starts a child and forwards no signal

# A model run that cannot be interrupted from inside: one long call that never looks up.
BUSY = """
import sys, time
from SynthCTLib import worker
import SynthCTLib.workflow.run as run
def stuck(job, listener, is_cancelled):
    with job.running(listener, is_cancelled) as progress:
        progress.stage("Stuck", 1.0)
        (job.path / "stuck").touch()
        while True:
            time.sleep(0.05)
run.run_job = stuck
sys.exit(worker.main(sys.argv[1:]))
"""


def job(folder: Path, **inputs: Path) -> Path:
    folder.mkdir()
    request = {
        "task": "mr-to-ct",
        "model": "uniform-body",
        "inputs": {name: {"path": str(path)} for name, path in inputs.items()},
    }
    (folder / "job.json").write_text(json.dumps(request))
    return folder


def until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


def members(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "SynthCTLib.worker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_check_writes_findings_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "broken.nrrd").write_text("no image")
    folder = job(tmp_path / "a", mr=SAMPLE / "mr.nii.gz", reference_ct=tmp_path / "broken.nrrd")
    assert worker(str(folder), "--check").returncode == 0
    findings = json.loads((folder / "findings.json").read_text())
    assert {"slot", "severity", "rule", "subject", "message"} == set(findings[0])
    errors = [f for f in findings if f["severity"] == "error"]
    assert [(f["slot"], f["rule"]) for f in errors] == [("reference_ct", "reading")]
    assert sorted(p.name for p in folder.iterdir()) == ["findings.json", "job.json"]


def test_cancel_file_stops_with_three(tmp_path: Path) -> None:
    folder = job(tmp_path / "a", mr=SAMPLE / "mr.nii.gz")
    (folder / "cancel").touch()
    done = worker(str(folder))
    assert done.returncode == 3
    assert "Stopped on request" in done.stderr
    assert not (folder / "result.json").exists()
    assert not (folder / "work").exists()


def test_input_that_leaves_the_job_folder_is_refused(tmp_path: Path) -> None:
    shutil.copy(SAMPLE / "mr.nii.gz", tmp_path / "secret.nii.gz")
    folder = job(tmp_path / "a", mr=Path("../secret.nii.gz"))
    done = worker(str(folder))
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(said) == 1
    assert "leaves the job folder" in said[0]
    assert {p.name for p in folder.iterdir()} <= {"job.json", "log.txt", "progress.jsonl"}


def test_package_is_the_command_line() -> None:
    """As Slicer's Python calls it, where no script is on the path."""
    command = [sys.executable, "-m", "SynthCTLib", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("synthct ")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    assert worker(str(tmp_path), "--force").returncode == 2
    assert worker(str(tmp_path), "--parent", "me").returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="sessions of POSIX")
def test_whole_tree_ends_when_the_application_is_killed(tmp_path: Path) -> None:
    folder = job(tmp_path / "a", mr=SAMPLE / "mr.nii.gz")
    busy, launcher = tmp_path / "busy.py", tmp_path / "launcher"
    busy.write_text(BUSY)
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    application = (
        "import os, subprocess, sys, time\n"
        f"p = subprocess.Popen([{str(launcher)!r}, {str(busy)!r}, {str(folder)!r},"
        " '--parent', str(os.getpid())], start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHON": sys.executable}
    slicer = subprocess.Popen(
        [sys.executable, "-c", application], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert slicer.stdout is not None
    session = int(slicer.stdout.readline())
    try:
        assert until((folder / "stuck").exists, 30)
        assert until(lambda: len(members(session)) == 3, 10)  # launcher, worker, guard
        slicer.kill()
        slicer.wait()
        assert until(lambda: not members(session), 3.0)
        assert not (folder / "work").exists()
        assert not (folder / "result.json").exists()
    finally:
        slicer.kill()
        slicer.stdout.close()
        for pid in members(session):
            os.kill(pid, signal.SIGKILL)
