"""The panel in use: stalls of the window, the end after Cancel, and the loading of a result.

    python benchmarks/panel.py

On the stand-in desktop of the panel's tests: the real MRML scene, PySide6 in the place of Slicer's
Qt, and a launcher that behaves as PythonSlicer does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PANEL = ROOT / "SynthCT" / "Testing" / "panel"
sys.path[:0] = [str(PANEL), str(ROOT / "SynthCT")]
SAMPLE = ROOT / "SynthCT" / "Resources" / "SampleData" / "STS_014"


def launcher(folder: Path) -> None:
    path = folder / "PythonSlicer"
    path.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    path.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def pump(until, seconds: float) -> list[tuple[float, float]]:
    """Run the event loop: the gaps between its turns, and the processor time of each turn, s.

    On busy cores the gaps hold what other programs took; the processor time is the panel's own.
    """
    import slicer

    gaps, last, end = [], time.perf_counter(), time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        used = time.thread_time()
        slicer.app.processEvents()
        used = time.thread_time() - used
        now = time.perf_counter()
        gaps.append((now - last, used))
        last = now
        time.sleep(0.002)
    return gaps


def longest(gaps: list[tuple[float, float]]) -> str:
    """The longest gap and the longest turn in processor time, ms."""
    return f"{1000 * max(g for g, _u in gaps):.0f} ms | {1000 * max(u for _g, u in gaps):.0f} ms"


def survivors(session: int) -> int:
    from conftest import members

    return len(members(session))


def whole_head_job(folder: Path) -> tuple[Path, Path]:
    """A finished job of 256^3 voxels, smooth noise in a ball, and its MR."""
    import numpy as np
    import SimpleITK as sitk

    folder.mkdir()
    z, y, x = np.ogrid[-1:1:256j, -1:1:256j, -1:1:256j]
    ball = (x * x + y * y + z * z) < 0.8
    noise = np.random.default_rng(0).normal(0, 20, (256,) * 3).astype(np.float32)
    ct = np.where(ball, 40 + noise, -1000).astype(np.float32)
    images = {"ct": ct, "mumap": (ct + 1000) * 9.6e-5, "ct_coverage": ball.astype(np.uint8)}
    images |= {"masks/head": ball.astype(np.uint8), "masks/skull": (ct > 80).astype(np.uint8)}
    outputs = {}
    for name, array in images.items():
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        outputs[name] = {"path": f"{name}.nii.gz", "sha256": ""}
    record = {
        "subject": "head",
        "task": "mr-to-ct",
        "model": "m",
        "model_version": "1",
        "outputs": outputs,
        "findings": [],
        "notes": [],
        "facts": {},
        "registration": None,
        "provenance": {},
        "timings_s": {},
        "versions": {},
    }
    (folder / "result.json").write_text(json.dumps(record))
    mr = folder / "mr.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray((ct + 1000).astype(np.float32)), str(mr))
    return folder, mr


def main() -> None:
    import slicer

    from standin import application, install, scripted
    from SynthCTSlicer import library

    work = Path(tempfile.mkdtemp())
    launcher(work)
    install.install()
    application.new_scene()
    page = scripted.ModulePage(install.load_module(ROOT / "SynthCT" / "SynthCT.py"))
    page.qt.show()
    page.enter()
    panel = page.widget.panel
    nodes = [
        slicer.util.loadVolume(str(SAMPLE / f), {"show": False}) for f in ("mr.nii.gz", "ct.nii.gz")
    ]
    panel.volumes.choose("mr", nodes[0].GetID())
    panel.volumes.choose("ct", nodes[1].GetID())
    for name, value in (("device", "cpu"), ("registration", "none"), ("bias_correction", False)):
        panel.task.set(name, value)
    panel.task.choose_model("uniform-body")
    began = time.perf_counter()
    panel.run.start()
    gaps = pump(lambda: panel.runner.busy, 60)
    start_s = time.perf_counter() - began
    gaps += pump(lambda: not panel.runner.busy, 600)
    assert panel.run.state.severity != "error", panel.run.state.message
    pump(lambda: not panel.run.state.loading, 60)

    panel.run.start()
    pump(lambda: panel.runner.busy and panel.run.state.fraction > 0.1, 120)
    session = panel.runner._process.pid
    began = time.perf_counter()
    panel.run.cancel()
    pump(lambda: not survivors(session), 10)
    cancel_s = time.perf_counter() - began

    folder, mr = whole_head_job(work / "job-256")
    node = slicer.util.loadVolume(str(mr), {"show": False})
    panel.review.show("")
    context = {"subject": "head", "inputs": {"mr": (node.GetID(), "mr")}}
    began = time.perf_counter()
    panel.run._load(folder, context)
    load_gaps = pump(lambda: panel.review.state.run == folder.name, 120)
    load_s = time.perf_counter() - began
    assert library.read_result(folder).subject == "head"
    page.close()
    slicer.app.close()
    shutil.rmtree(work)
    print("| what | by the clock | processor time of the window's thread |")
    print("|---|---|---|")
    print(
        f"| writing the inputs of a job (187 x 148 x 65 and 197 x 178 x 65) | {start_s:.2f} s | |"
    )
    print(f"| longest turn of the event loop in a run | {longest(gaps)} |")
    print(f"| from Cancel to no process left | {cancel_s:.2f} s | |")
    print(f"| loading a result of 256^3 (3 images, 2 masks) | {load_s:.1f} s | |")
    print(f"| longest turn while it is loaded | {longest(load_gaps)} |")
    load = os.getloadavg()[0]
    print(f"\n{os.cpu_count()} cores, load average {load:.1f} at the end.")


if __name__ == "__main__":
    main()
