"""The user's own models: a checkpoint or a trained folder becomes a model, or nothing is kept."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.synthesis.card import CARD_FILE, ModelCard, check_model_name, read_card
from SynthCTLib.synthesis.monai_checkpoint import read_checkpoint, settings_from, translated
from SynthCTLib.synthesis.patchwise import PatchwiseSynthesizer
from SynthCTLib.synthesis.registry import Machine, build_model, models_folder
from SynthCTLib.synthesis.synthesizer import Synthesizer
from SynthCTLib.synthesis.task import Task
from SynthCTLib.synthesis.triplanar import PlaceSettings, SliceModel, TriplanarSynthesizer
from SynthCTLib.synthesis.virtual_pet import VirtualPetSynthesizer
from SynthCTLib.volume import sha256_of

WEIGHTS_FILE = "weights.safetensors"
PLACE_KEYS = tuple(f.name for f in fields(PlaceSettings))


def import_model(source: Path, name: str, models_dir: Path) -> ModelCard:
    """Make a model of the user's own from a checkpoint file or from a folder with a card.

    ``source``: a torch checkpoint of a ShuffleUNet in MONAI's layout, which is given the
    preprocessing of the release it stems from, or a folder with ``card.yaml`` and the weights that
    the card names. The model is built before it is kept. Raises InputError when the name is taken
    or the source cannot be used, OutputError when the folder cannot be written.
    """
    check_model_name(name)
    if (models_folder() / name).exists():
        raise InputError(f"A model named {name} ships with SynthCT: choose another name.")
    target = models_dir / name
    if target.exists():
        raise InputError(
            f"You have a model named {name} already: choose another name, or remove the folder "
            f"{target}."
        )
    if not source.exists():
        raise InputError(f"There is no file or folder {source}: check the path.")
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models_dir, prefix=".import-") as draft:
            folder = Path(draft) / name
            folder.mkdir()
            if source.is_dir():
                _copy_folder(source, name, folder)
            else:
                _convert_checkpoint(source, name, folder)
            _prove(build_model(read_card(folder, folder), Machine()))
            folder.rename(target)
    except OSError as error:
        raise OutputError(
            f"The model cannot be written to {models_dir} ({error}): choose another folder."
        ) from error
    return read_card(target, target)


def join_virtual_pet(fcn: Path, gan: Path, name: str, models_dir: Path) -> ModelCard:
    """Make a virtual PET (Paper 3) of two trained models: the FCN and the conditional GAN.

    ``fcn`` and ``gan``: model folders of the family triplanar that make a PET of a CT, on the same
    voxels of the same region. Raises InputError when they are not, or the name is taken.
    """
    parts: dict[str, dict[str, Any]] = {}
    cards, places = [], []
    for key, source in (("fcn", fcn), ("gan", gan)):
        card = read_card(source, source, named=False)
        if card.task != Task.CT_TO_PET or card.architecture.family != "triplanar":
            raise InputError(
                f"The model in {source} is no network from CT to PET: give the folder that "
                "training virtual-pet-fcn or virtual-pet-gan wrote."
            )
        settings = dict(card.architecture.settings)
        places.append({k: settings.pop(k) for k in PLACE_KEYS if k in settings})
        parts[key] = settings
        cards.append(card)
    if places[0] != places[1]:
        raise InputError(
            f"The two networks see different parts or voxels ({places[0]} and {places[1]}): "
            "train both with one working_mm and region."
        )
    with tempfile.TemporaryDirectory(prefix="synthct-") as draft:
        hashes = {}
        for (key, settings), card in zip(parts.items(), cards, strict=True):
            renamed = []
            for number, file in enumerate(settings["weights"], start=1):
                copy = f"{key}{number}.safetensors"
                shutil.copyfile(card.file(file), Path(draft) / copy)
                hashes[copy] = sha256_of(Path(draft) / copy)
                renamed.append(copy)
            settings["weights"] = renamed
        content = cards[0].model_dump(mode="json") | {
            "name": name,
            "title": f"Virtual PET: {cards[0].title}; {cards[1].title}",
            "architecture": {"family": "virtual_pet", "settings": {**parts, "place": places[0]}},
            "measured_accuracy": [],
            "limits": list(dict.fromkeys((*cards[0].limits, *cards[1].limits))),
            "files": hashes,
        }
        _write_card(Path(draft), content)
        return import_model(Path(draft), name, models_dir)


def _prove(model: Synthesizer) -> None:
    """Open what is only opened when a synthesis needs it. Raises MissingModel."""
    parts: tuple[PatchwiseSynthesizer | SliceModel, ...] = ()
    if isinstance(model, PatchwiseSynthesizer):
        parts = (model,)
    elif isinstance(model, TriplanarSynthesizer | VirtualPetSynthesizer):
        parts = model.models
    for part in parts:
        for weights in part.settings.weights:
            part.open_network(weights)


def _copy_folder(source: Path, name: str, folder: Path) -> None:
    """The card under the new name, never a default, and the files it names, with their hashes."""
    card = read_card(source, source, named=False)
    content = yaml.safe_load((source / CARD_FILE).read_text(encoding="utf-8"))
    files = {*card.files, *card.architecture.settings.get("weights", ())}
    hashes = {}
    for file in sorted(files):
        origin = source.joinpath(*file.split("/"))
        if not origin.is_file():
            raise InputError(f"The card in {source} names {file}, which is not there: add it.")
        destination = folder.joinpath(*file.split("/"))
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, destination)
        hashes[file] = sha256_of(destination)
        if card.files.get(file, hashes[file]) != hashes[file]:
            raise InputError(
                f"The file {file} in {source} is not the one on its card (SHA-256 differs): "
                "copy the folder again."
            )
    _write_card(folder, content | {"name": name, "default": False, "files": hashes})


def _convert_checkpoint(source: Path, name: str, folder: Path) -> None:
    from safetensors.torch import save_file

    state = read_checkpoint(source)
    network = settings_from(state)
    save_file(translated(state, network), folder / WEIGHTS_FILE)
    content = released_card(name, source.name, sha256_of(source), network)
    _write_card(folder, content | {"files": {WEIGHTS_FILE: sha256_of(folder / WEIGHTS_FILE)}})


def released_card(
    name: str, file: str, sha256: str, network_settings: dict[str, Any]
) -> dict[str, Any]:
    """Card of an imported checkpoint, with the preprocessing of the release for planning.

    Yaakub et al., arXiv 2209.12031, and the program released with it (sitiny/mr-to-pct): histogram
    normalisation in 256 bins, -1 to 1, patches of 256 x 256 x 32 voxels of 1 mm, axes to the right,
    anterior and superior, noise outside the head masked out, answer in HU (at 100 keV).
    """
    return {
        "name": name,
        "title": f"Imported checkpoint {file}",
        "version": sha256[:12],
        "task": "mr-to-ct",
        "licence": "that of the checkpoint",
        "architecture": {
            "family": "patchwise",
            "settings": {
                "network": "shuffle_unet",
                "network_settings": network_settings,
                "weights": [WEIGHTS_FILE],
                "window": {"patch": [256, 256, 32], "overlap": 0.5},
                "preparation": {"method": "histogram", "masked": True},
                "axes": "ras-xyz",
            },
        },
        "preprocessing": [
            "N4 bias correction (synthct run does it)",
            "1 mm, axes to the right, anterior and superior, at least 256 x 256 x 32 voxels",
            "what lies outside the head is removed; histogram normalisation to 0..255, then -1..1",
        ],
        "training_data": [],
        "measured_accuracy": [],
        "limits": [
            "Imported by the user: SynthCT has measured nothing of it.",
            "The checkpoint released for ultrasound planning gives HU at 100 keV, not those of a "
            "tube voltage that a convention for µ-maps names.",
        ],
        "tested": {"anatomy": "head", "contrasts": ["t1"]},
        "citation": ["The work that the checkpoint was published with."],
    }


def _write_card(folder: Path, content: dict[str, Any]) -> None:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
