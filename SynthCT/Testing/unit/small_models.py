"""Models of random weights for tests, written as a user's own models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from SynthCTLib.networks import build_network
from SynthCTLib.volume import sha256_of

TINY_NETWORK = {"channels": [2, 4], "residual_units": 1}


def card_content(name: str, settings: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "title": "Random weights",
        "version": "1",
        "task": "mr-to-ct",
        "licence": "none",
        "architecture": {"family": "patchwise", "settings": settings},
        "preprocessing": [],
        "training_data": [],
        "measured_accuracy": [],
        "limits": ["Knows nothing."],
        "tested": {"anatomy": "head"},
        "files": files,
        "citation": [],
    }


def small_settings(**changes: Any) -> dict[str, Any]:
    """A tiny ShuffleUNet on a coarse grid: a head in a second."""
    return {
        "network": "shuffle_unet",
        "network_settings": TINY_NETWORK,
        "weights": ["weights.safetensors"],
        "window": {"patch": [32, 48, 32], "overlap": 0.25},
        "output": {"scale": 500.0, "offset": 0.0},
        "working_mm": 3.0,
    } | changes


def write_model(models_dir: Path, name: str, **changes: Any) -> Path:
    """A model folder with a card and float16 weights, each fold from its own seed."""
    folder = models_dir / name
    folder.mkdir(parents=True)
    settings = small_settings(**changes)
    for seed, file in enumerate(settings["weights"]):
        torch.manual_seed(seed)
        network = build_network(settings["network"], settings["network_settings"])
        save_file({k: v.half() for k, v in network.state_dict().items()}, folder / file)
    files = {file: sha256_of(folder / file) for file in settings["weights"]}
    (folder / "card.yaml").write_text(yaml.safe_dump(card_content(name, settings, files)))
    return folder
