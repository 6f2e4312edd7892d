"""Interfile µ-maps into the scene; the library reads them."""

import tempfile
from pathlib import Path

import slicer

from SynthCTSlicer import library, mrml
from SynthCTSlicer.signals import PanelError


def confidence(path):
    """How sure it is that a file is an Interfile header: by its first line, 0.0 to 1.0."""
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(200).lower().replace(b" ", b"")
    except OSError:
        return 0.0
    return 0.9 if b"interfile:=" in start else 0.0


def load(path):
    """Load a µ-map (1/cm) in the place that its header gives. Raises PanelError."""
    library.require()
    from SynthCTLib.errors import SynthCTError
    from SynthCTLib.imaging.files import read_volume, write_volume
    from SynthCTLib.volume import Role

    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "mumap.nrrd"
        try:
            write_volume(read_volume(Path(path), Role.MU_MAP), part)
        except SynthCTError as error:
            raise PanelError(str(error)) from error
        properties = {"show": False, "name": Path(path).name.split(".")[0]}
        node = slicer.util.loadVolume(str(part), properties)
    node.SetVoxelValueQuantity(mrml.vtk_coded("112031", "DCM", "Attenuation Coefficient"))
    node.SetVoxelValueUnits(mrml.vtk_coded("cm-1", "UCUM", "per centimeter"))
    return node
