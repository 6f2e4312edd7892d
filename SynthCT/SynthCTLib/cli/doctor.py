"""``synthct doctor``: what is installed, what will compute, and which models are ready."""

from __future__ import annotations

import json
import os
import platform
import shutil
from typing import Annotated, Any

import psutil
import typer

from SynthCTLib.cli.screen import default_cache_folder, default_models_folder
from SynthCTLib.errors import MissingModel
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.registry import list_models, verify

GIB = 2**30


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what is installed, which device will be used, the free memory and the models."""
    from SynthCTLib.workflow.device import choose_device
    from SynthCTLib.workflow.result import software_versions

    cache = default_cache_folder()
    there = next(p for p in (cache, *cache.parents) if p.exists())
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_free_gib": round(psutil.virtual_memory().available / GIB, 1),
        "device": choose_device("auto", Progress()),
        "versions": software_versions(),
        "cache": str(cache),
        "cache_writable": os.access(there, os.W_OK),
        "cache_disk_free_gib": round(shutil.disk_usage(there).free / GIB, 1),
        "models": {
            card.name: _state(card) for card in list_models(models_dir=default_models_folder())
        },
        "own_models": str(default_models_folder()),
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        label = name.replace("_gib", " (GiB)").replace("_", " ")
        if isinstance(value, dict):
            typer.echo(f"{label}:")
            for key, entry in value.items():
                typer.echo(f"  {key}: {entry}")
        else:
            typer.echo(f"{label}: {value}")


def _state(card: Any) -> str:
    try:
        verify(card)
    except MissingModel as error:
        return str(error)
    return "ready"
