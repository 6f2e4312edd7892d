"""``synthct train``: train a recipe, resume it, or fine-tune from given weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from SynthCTLib.cli.ending import stop_on_signals
from SynthCTLib.cli.screen import Screen


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe by name, or a YAML file.")],
    data: Annotated[
        Path,
        typer.Option(help="Folder of pairs (subject/mr.nii.gz, ct.nii.gz) or of head label maps."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for checkpoint, logs and the model.")
    ],
    fold: Annotated[int, typer.Option(min=1, help="Which fold of the pairs to leave out.")] = 1,
    init: Annotated[
        Path | None, typer.Option(help="Model folder or weights to start from (fine-tuning).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after this time, with a checkpoint.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, max=256, help="Threads on the CPU.")] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="Folder to keep prepared pairs in, for several folds to share."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but failures.")] = False,
) -> None:
    """Train a model. Ctrl-C or a kill leaves a checkpoint; --resume goes on to the exact step.

    On several GPUs: torchrun --nproc-per-node N -m SynthCTLib.cli train RECIPE ... --device cuda
    """
    from SynthCTLib.training.recipe import read_recipe
    from SynthCTLib.workflow.training import TrainingRequest, train_recipe

    request = TrainingRequest(
        read_recipe(recipe),
        data.absolute(),
        output.absolute(),
        fold,
        init,
        resume,
        max_minutes,
        device,
        threads,
        examples.absolute() if examples else None,
    )
    with Screen(quiet) as screen, stop_on_signals() as is_cancelled:
        trained = train_recipe(request, screen.progress(is_cancelled), os.environ)
    if not quiet:
        steps = f"{trained.result.step} of {request.recipe.steps} steps"
        typer.echo(f"Model ({steps}): {trained.model}")
        if not trained.result.complete:
            typer.echo("Go on with --resume.")
        typer.echo(f"Use it: synthct models import {trained.model} --name NAME")
