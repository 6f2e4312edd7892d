"""Sample data that ships with the extension: it works without a network."""

import hashlib
from pathlib import Path

NAME = "SynthCT: thigh, MR and CT"
FILES = (("mr.nii.gz", "SampleThigh_MR"), ("ct.nii.gz", "SampleThigh_CT"))


def register(folder):
    """Register the sample of a folder with the module Sample Data."""
    import SampleData

    folder = Path(folder)
    paths = [folder / file for file, _name in FILES]
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SynthCT",
        sampleName=NAME,
        uris=[path.as_uri() for path in paths],
        fileNames=[f"{name}.nii.gz" for _file, name in FILES],
        nodeNames=[name for _file, name in FILES],
        checksums=[f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths],
        loadFileTypes=["VolumeFile"] * len(paths),
        loadFiles=[True] * len(paths),
    )
