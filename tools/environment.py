"""Make the checkout's own environment (.venv) with pinned packages and the CPU build of torch.

Used by the Makefile. Needs nothing but Python 3.11 to 3.13:

    python3 tools/environment.py [EXTRA]
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
PYTHON = FOLDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
TORCH = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pip(*arguments: str) -> bool:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def install_torch() -> bool:
    """The CPU build: the plain name would bring several GB of GPU libraries on Linux."""
    probe = f"import torch; assert torch.__version__.startswith({TORCH!r})"
    installed = subprocess.run([str(PYTHON), "-c", probe], capture_output=True, check=False)
    if installed.returncode == 0:
        return True
    if sys.platform == "darwin":
        return pip("install", "-q", "-c", "constraints.txt", f"torch=={TORCH}")
    local = pip("install", "-q", "-c", "constraints.txt", f"torch=={TORCH}+cpu")
    if local:
        return True
    print(f"Taking the CPU build of torch from {TORCH_CPU_INDEX}.", flush=True)
    index = ("--index-url", TORCH_CPU_INDEX, "--extra-index-url", "https://pypi.org/simple")
    return pip("install", "-q", "-c", "constraints.txt", *index, f"torch=={TORCH}+cpu")


def main() -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(
            f"SynthCT needs Python 3.11 to 3.13 and this is {sys.version.split()[0]}: "
            "call make PYTHON=python3.11.",
            file=sys.stderr,
        )
        return 2
    extra = f"[{sys.argv[1]}]" if len(sys.argv) > 1 else ""
    if not PYTHON.exists():
        print(f"Making the environment in {FOLDER}.", flush=True)
        venv.create(FOLDER, with_pip=True)
    print("Installing the packages (a few minutes the first time).", flush=True)
    done = install_torch() and pip("install", "-q", "-c", "constraints.txt", "-e", f".{extra}")
    if not done:
        print("The packages could not be installed: see the lines above.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
