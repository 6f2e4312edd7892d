"""``synthct models``: which models there are, and whether their files are sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from SynthCTLib.cli.screen import default_models_folder
from SynthCTLib.synthesis.registry import find_card, list_models, verify
from SynthCTLib.synthesis.task import Task

app = typer.Typer(no_args_is_help=True, help="List, show, verify and import models.")
Folder = Annotated[
    Path | None, typer.Option("--models", help="Folder of your own models.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(
    task: Annotated[Task | None, typer.Option(help="Only models of this task.")] = None,
    as_json: Json = False,
    models: Folder = None,
) -> None:
    """List the models, the default of each task first."""
    cards = list_models(task, models or default_models_folder())
    if as_json:
        typer.echo(json.dumps([c.model_dump(mode="json") for c in cards], indent=2))
        return
    table = Table("Model", "Task", "What it is", box=None)
    for card in cards:
        table.add_row(card.name + (" (default)" if card.default else ""), card.task, card.title)
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    as_json: Json = False,
    models: Folder = None,
) -> None:
    """Show a model's card: data, measured accuracy, limits, what it was tested on."""
    card = find_card(name, models or default_models_folder())
    if as_json:
        typer.echo(card.model_dump_json(indent=2))
        return
    typer.echo(f"{card.name} {card.version}: {card.title}\nTask: {card.task}\n")
    typer.echo("Made from")
    for data in card.training_data:
        kind = "simulated" if data.simulated else "real"
        typer.echo(f"  {data.name}: {data.subjects} subjects, {kind}, {data.licence}")
    typer.echo("Measured")
    for measured in card.measured_accuracy:
        kind = "simulated" if measured.simulated else "real"
        typer.echo(f"  {measured.data}, N = {measured.subjects}, {kind}: {measured.text}")
    typer.echo("Limits")
    for limit in card.limits:
        typer.echo(f"  {limit}")


@app.command("verify")
def verify_command(
    name: Annotated[str | None, typer.Argument(help="Name of the model; all if absent.")] = None,
    models: Folder = None,
) -> None:
    """Check that every file of the models is there and unaltered (SHA-256)."""
    folder = models or default_models_folder()
    for card in [find_card(name, folder)] if name else list_models(models_dir=folder):
        files = verify(card)
        typer.echo(f"{card.name}: {len(files)} files, all sound")


@app.command("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(help="Checkpoint of a ShuffleUNet (.pth), or a folder with card.yaml."),
    ],
    name: Annotated[str, typer.Option(help="Name of the model from now on.")],
    models: Folder = None,
) -> None:
    """Add a model of your own: trained by synthct train, or released by others."""
    from SynthCTLib.synthesis.own_models import import_model

    folder = models or default_models_folder()
    card = import_model(source, name, folder)
    typer.echo(f"{card.name} ({card.title}): {folder / name}\nUse it: synthct run --model {name}")


@app.command("virtual-pet")
def virtual_pet_command(
    fcn: Annotated[Path, typer.Option(help="Model folder of the trained FCN.")],
    gan: Annotated[Path, typer.Option(help="Model folder of the trained conditional GAN.")],
    name: Annotated[str, typer.Option(help="Name of the model from now on.")],
    models: Folder = None,
) -> None:
    """Join two trained networks from CT to PET into one model that blends them (Paper 3)."""
    from SynthCTLib.synthesis.own_models import join_virtual_pet

    folder = models or default_models_folder()
    card = join_virtual_pet(fcn, gan, name, folder)
    typer.echo(f"{card.name} ({card.title}): {folder / name}\nUse it: synthct run --model {name}")
