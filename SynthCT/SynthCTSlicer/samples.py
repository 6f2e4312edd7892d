"""Sample data that ships with the extension: it works without a network."""

import hashlib
from pathlib import Path

NAME = "SynthCT: thigh, MR and CT"
NAME_WITH_PET = "SynthCT: thigh, MR, CT, PET and NAC PET"
FILES = (("mr.nii.gz", "SampleThigh_MR"), ("ct.nii.gz", "SampleThigh_CT"))
PET_FILES = (("pet.nii.gz", "SampleThigh_PET"), ("nac_pet.nii.gz", "SampleThigh_NACPET"))


def register(folder):
    """Register the samples of a folder with the module Sample Data."""
    for name, files in ((NAME, FILES), (NAME_WITH_PET, FILES + PET_FILES)):
        _register(name, [(Path(folder) / file, node) for file, node in files])


def _register(name, files):
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SynthCT",
        sampleName=name,
        uris=[path.as_uri() for path, _node in files],
        fileNames=[f"{node}.nii.gz" for _path, node in files],
        nodeNames=[node for _path, node in files],
        checksums=[f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path, _ in files],
        loadFileTypes=["VolumeFile"] * len(files),
        loadFiles=[True] * len(files),
    )
