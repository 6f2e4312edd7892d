"""What stands for the worker where a test is not about the library.

Called by the launcher as the real worker is (``-m SynthCTLib.worker JOB ...``). The file ``mode``
beside this one says what to do; ``finished`` beside it is a folder that the real worker filled.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TRACE = "Traceback (most recent call last):\n  File ...\n"
OUT_OF_MEMORY = TRACE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
HALF_TORCH = TRACE + "ImportError: libtorch_cpu.so: cannot open shared object file (torch)\n"
SAYS = {
    "refuse": (2, "The file w.safetensors of model m is not the published one: reinstall it.\n"),
    "out-of-memory": (1, OUT_OF_MEMORY),
    "no-memory": (
        2,
        "The memory does not suffice for model m, not even for one patch of 64 x 64 x 64 voxels: "
        "close other programs, or take another model.\n",
    ),
    "half-torch": (1, HALF_TORCH),
    "no-torch": (
        2,
        "Model m needs the package torch, which is not installed: install it (in Slicer: the "
        "extension PyTorch), or choose another model.\n",
    ),
    "no-package": (1, TRACE + "ModuleNotFoundError: No module named 'pydantic'\n"),
    "bug": (1, TRACE + "ZeroDivisionError: division by zero\n"),
    "silent": (137, ""),
}


def tell(folder: Path, stage: str, fraction: float, note: str = "") -> None:
    event = {
        "time": time.time(),
        "stage": stage,
        "fraction": fraction,
        "message": note,
        "remaining_s": 5.0 if fraction > 0 else None,
        "note": bool(note),
    }
    with (folder / "progress.jsonl").open("a") as stream:
        stream.write(json.dumps(event) + "\n")


def main(arguments: list[str]) -> int:
    mode = (HERE / "mode").read_text().strip()
    if arguments[1] == "SynthCTLib":
        Path(arguments[arguments.index("-o") + 1]).write_text(" ".join(arguments))
        return 0
    folder = Path(arguments[2])
    (folder / "arguments").write_text(" ".join(arguments))
    if "--check" in arguments:
        found = HERE / "findings.json"
        text = found.read_text() if found.exists() else "[]"
        (folder / "findings.json").write_text(text)
        return 0
    if mode in SAYS:
        code, text = SAYS[mode]
        sys.stderr.write(text)
        return code
    if mode == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(folder, "Registering", 0.3)
        subprocess.Popen(["sleep", "120"])  # what a worker starts must end with it
        while True:
            time.sleep(0.05)
    if mode == "polite":
        tell(folder, "Registering", 0.3)
        while not (folder / "cancel").exists():
            time.sleep(0.02)
        return 3
    for i in range(5):
        tell(folder, f"Stage {i}", i / 5)
        time.sleep(0.02)
    tell(folder, "Stage 4", 0.9, "The reference CT was taken to be in register.")
    shutil.copytree(HERE / "finished", folder, dirs_exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
