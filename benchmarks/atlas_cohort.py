"""The subjects of a cross-validation answered by an atlas model too: a manifest for paired tests.

    python benchmarks/atlas_cohort.py OUT/manifest.csv -o ATLAS [--model atlas-fusion]

The manifest is that of ``cross_validation.py``: MR, CT and mask of simulated heads
(``simulated_pairs.py``). Each MR is corrected for bias and answered by the atlas model without the
subject's own anatomy, on voxels of ``--working-mm``. What lies finished in ATLAS is not made again.
The paired t-test between both (Paper 1, section 3.5) is made by

    synthct evaluate --manifest OUT/manifest.csv -o TABLES
    synthct evaluate --manifest ATLAS/manifest.csv -o ATLAS-TABLES
    synthct compare TABLES ATLAS-TABLES -o COMPARISON
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from cross_validation import write_manifest
from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.atlas import AtlasSettings, AtlasSynthesizer
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.volume import Role

FILES = ("reference_ct", "mr", "mask.compared")


def without(name: str, model: str, working_mm: float, threads: int) -> AtlasSynthesizer:
    """The atlas model without one anatomy."""
    machine = Machine("cpu", threads, default_cache_folder())
    full = open_model(model, machine)
    settings = settings_of(full.card, AtlasSettings)
    others = tuple(a for a in settings.atlases if a != name)
    similarity_mm = max(settings.similarity_mm, working_mm)
    return AtlasSynthesizer(
        full.card,
        replace(settings, atlases=others, working_mm=working_mm, similarity_mm=similarity_mm),
        machine,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--model", default="atlas-fusion")
    parser.add_argument("--working-mm", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    given, out = arguments.manifest.parent.resolve(), arguments.output
    out.mkdir(parents=True, exist_ok=True)
    with arguments.manifest.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    for line in lines:
        line.update({name: str(given / line[name]) for name in FILES}, method=arguments.model)
        made = out / f"{line['subject']}_synthetic_ct.nii.gz"
        line["synthetic_ct"] = made.name
        if made.is_file():
            continue
        mr = correct_bias(read_volume(Path(line["mr"]), Role.MR))
        model = without(line["subject"], arguments.model, arguments.working_mm, arguments.threads)
        answer = model.synthesize({Role.MR: mr}, Progress())
        write_volume(answer.volume, made)
        print(f"{line['subject']}: {len(model.settings.atlases)} atlases", flush=True)
    write_manifest(lines, out / "manifest.csv")


if __name__ == "__main__":
    main()
