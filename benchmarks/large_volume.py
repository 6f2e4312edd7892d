"""Peak memory of a patchwise synthesis of a whole head at 0.4 mm (600 x 600 x 400 voxels).

    python benchmarks/large_volume.py [--passes 2]

A shipped real head (child, 0.9 mm) is resampled to 0.4 mm; the network is a small ShuffleUNet with
random weights, a mirrored pass gives an uncertainty. Prints the memory that the process holds with
the MR read, and its peak during the synthesis.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from safetensors.torch import save_file

from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import resample
from SynthCTLib.networks import build_network
from SynthCTLib.progress import Progress
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.volume import Grid, Role, Volume, sha256_of

GIB = 2**30
SIZE, SPACING_MM = (600, 600, 400), 0.4


def large_head() -> Volume:
    mr = read_volume(resource("SampleData", "child_3y_t1.nii.gz"), Role.MR)
    half = np.reshape(mr.grid.direction, (3, 3)) @ (SPACING_MM * (np.array(SIZE) - 1) / 2)
    x, y, z = mr.grid.centre_mm - half
    return resample(mr, Grid(SIZE, (SPACING_MM,) * 3, (x, y, z), mr.grid.direction))


def write_model(folder: Path, mirror: list[str]) -> None:
    folder.mkdir()
    torch.manual_seed(0)
    network = build_network("shuffle_unet", {"channels": [8, 16, 32, 64]})
    save_file(network.state_dict(), folder / "weights.safetensors")
    card = {
        "name": folder.name,
        "title": "Random weights",
        "version": "1",
        "task": "mr-to-ct",
        "licence": "none",
        "architecture": {
            "family": "patchwise",
            "settings": {
                "network": "shuffle_unet",
                "network_settings": {"channels": [8, 16, 32, 64]},
                "weights": ["weights.safetensors"],
                "window": {"patch": [112, 112, 112], "overlap": 0.1},
                "output": {"scale": 500.0},
                "mirror": mirror,
            },
        },
        "preprocessing": [],
        "training_data": [],
        "measured_accuracy": [],
        "limits": [],
        "tested": {},
        "files": {"weights.safetensors": sha256_of(folder / "weights.safetensors")},
        "citation": [],
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


class Peak:
    """The largest resident memory of this process while the block runs, GiB."""

    def __enter__(self) -> Peak:
        self.gib, self.stop = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        """Look 50 times a second."""
        process = psutil.Process()
        while not self.stop.wait(0.02):
            self.gib = max(self.gib, process.memory_info().rss / GIB)

    def __exit__(self, *failure: object) -> None:
        self.stop.set()
        self.thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, choices=(1, 2), default=2)
    passes = parser.parse_args().passes
    mr = large_head()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "random", ["x"] if passes == 2 else [])
        print("| engine | passes | with the MR read, GiB | peak, GiB |\n|---|---|---|---|")
        for engine in ("torch", "openvino"):
            model = open_model("random", Machine("cpu", 2, models_dir=Path(folder), engine=engine))
            before = psutil.Process().memory_info().rss / GIB
            with Peak() as peak:
                made = model.synthesize({Role.MR: mr}, Progress())
            assert made.volume.grid == mr.grid
            del made
            print(
                f"| {engine} | {passes} | {before:.2f} | {peak.gib:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
