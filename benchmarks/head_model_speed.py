"""How fast the head model is on two cores, and what its shortcuts change.

    python benchmarks/head_model_speed.py --data-pack DIR [--reference-overlap 0.75] [--device cpu]

The peer is the same network in float32 through MONAI's ``sliding_window_inference`` with Gaussian
weights, patches of 96 voxels: at an overlap that is computed whole (``--reference-overlap``), from
which each row's mean change in the head is taken, and at 0.9 (Paper 1's), of which the time is the
number of its patches times that of one. The 144 passes are those of the ultrasound release: the
whole head, patch by patch, 144 times.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from SynthCTLib.imaging.files import read_volume
from SynthCTLib.networks.two_view_unet import CONTEXT_POOLING, TwoViewUNet
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.patchwise import PatchwiseSettings, PatchwiseSynthesizer
from SynthCTLib.synthesis.preparation import prepare
from SynthCTLib.synthesis.registry import Machine, find_card
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.window import Window
from SynthCTLib.synthesis.working_view import view_of
from SynthCTLib.volume import Role, Volume

HEAD = "adult_t1_1mm_no_neck.nii.gz"
SIDE = 96
PASSES = 144
ROWS = (
    # engine, precision, patch, overlap, mirrored
    ("torch", "fp32", (96, 96, 96), 0.5, False),
    ("torch", "fp32", (96, 96, 96), 0.25, False),
    ("torch", "fp32", (160, 160, 192), 0.1, False),
    ("torch", "bf16", (160, 160, 192), 0.1, False),
    ("torch", "bf16", (160, 160, 192), 0.1, True),
    ("openvino", "fp32", (160, 160, 192), 0.1, False),
    ("openvino", "bf16", (160, 160, 192), 0.1, False),
    ("openvino", "bf16", (160, 160, 192), 0.1, True),
)


class Placed:
    """MONAI's window does not say where a patch lies: channels of coordinates do."""

    def __init__(self, network: TwoViewUNet, features: torch.Tensor, device: str) -> None:
        self.network, self.features, self.device = network, features, device
        self.calls, self.seconds = 0, 0.0

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """The answer in patches whose last three channels are their coordinates."""
        begin = now(self.device)
        made = []
        for patch in patches:
            corner = patch[-3:, 0, 0, 0].round().int().tolist()
            places = [slice(c // CONTEXT_POOLING, (c + SIDE) // CONTEXT_POOLING) for c in corner]
            crop = self.features[(slice(None), slice(None), *places)]
            made.append(self.network.fine(patch[None, :-3], crop))
        self.calls += len(patches)
        self.seconds += now(self.device) - begin
        return torch.cat(made)


def now(device: str) -> float:
    """Seconds, after all that a GPU was asked for."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def windows(shape: tuple[int, ...], overlap: float) -> int:
    """How many patches MONAI's window takes."""
    count = 1
    for n in shape:
        interval = max(1, int(SIDE * (1 - overlap)))
        count *= -(-(n - SIDE) // interval) + 1
    return count


def reference(
    mr: Volume, model: PatchwiseSynthesizer, overlap: float, device: str
) -> tuple[np.ndarray, np.ndarray, Placed, tuple[int, ...]]:
    """HU and head on the working canvas by MONAI, at an interval rounded to multiples of 4."""
    settings = model.settings
    work = view_of(mr, settings.region, 1.0, settings.crop_margin_mm, 0.0, (SIDE,) * 3)
    canvas = torch.from_numpy(prepare(work.mr, work.scanned, work.region, settings.preparation))
    canvas = canvas.to(device)
    network = model.open_network(settings.weights[0]).eval().to(device)
    assert isinstance(network, TwoViewUNet)
    counted = (torch.arange(n, device=device).float() for n in canvas.shape[1:])
    axes = torch.meshgrid(*counted, indexing="ij")
    with torch.inference_mode():
        predictor = Placed(network, network.context(canvas[None]), device)
        given = torch.cat([canvas, torch.stack(axes)])[None]
        y = sliding_window_inference(given, SIDE, 1, predictor, overlap, mode="gaussian")[0, 0]
    hu = (settings.output.scale * y + settings.output.offset).cpu().numpy()
    return np.clip(hu, settings.output.low, settings.output.high), work.region, predictor, hu.shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--model", default="head-unet")
    # 96 (1 - 0.75) = 24 and 48 for 0.5: multiples of 4, so that features are not interpolated.
    parser.add_argument("--reference-overlap", type=float, default=0.75, choices=(0.5, 0.75))
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    arguments = parser.parse_args()
    device: str = arguments.device
    torch.set_num_threads(2)
    card = find_card(arguments.model)
    base = settings_of(card, PatchwiseSettings)
    mr = read_volume(arguments.data_pack / "heads" / HEAD, Role.MR)
    machine = Machine(device, 2, engine="torch", precision="fp32")
    model = PatchwiseSynthesizer(card, base, machine)
    expected, head, predictor, shape = reference(mr, model, arguments.reference_overlap, device)
    per_patch = predictor.seconds / predictor.calls
    at_09 = per_patch * windows(shape, 0.9)
    passes = PASSES * per_patch * windows(shape, 0.0)
    where = "two threads" if device == "cpu" else torch.cuda.get_device_name(device)
    print(
        f"{arguments.model}, real adult head of 1 mm (N = 1), {where}. Peer: MONAI's window, "
        f"{predictor.calls} patches computed at overlap {arguments.reference_overlap:g}; at 0.9 it "
        f"would be {windows(shape, 0.9)} patches.\n"
    )
    print(
        "| engine | precision | patch | overlap | mirrored too | MONAI at 0.9 / time "
        "| 144 passes / time | mean change in the head (HU) |"
    )
    print("|---|---|---|--:|---|--:|--:|--:|")
    for engine, precision, patch, overlap, mirrored in ROWS:
        if engine == "openvino" and device != "cpu":
            continue
        settings = replace(
            base,
            window=Window(patch, overlap, fit=True),
            mirror=("x",) if mirrored else (),
            keep_margin_mm=0,
        )
        row = PatchwiseSynthesizer(
            card, settings, replace(machine, engine=engine, precision=precision)
        )
        if device != "cpu":  # what a GPU does once, it does before
            row.synthesize({Role.MR: mr}, Progress())
        begin = now(device)
        made = row.synthesize({Role.MR: mr}, Progress())
        seconds = now(device) - begin
        work = view_of(mr, base.region, 1.0, base.crop_margin_mm, 0.0, (SIDE,) * 3)
        target = work.onto_input(
            np.where(head, expected, -1000).astype(np.float32), -1000, cubic=False
        )
        inside = target > -1000
        change = float(np.abs(made.volume.array - target)[inside].mean())
        shown = " x ".join(str(n) for n in patch)
        print(
            f"| {engine} | {precision} | {shown} | {overlap:g} | {'yes' if mirrored else 'no'} "
            f"| {at_09 / seconds:.0f} | {passes / seconds:.0f} | {change:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
