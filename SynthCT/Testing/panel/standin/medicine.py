"""DICOMLib and SampleData, as far as a panel meets them."""

from __future__ import annotations

import types
import urllib.request
from pathlib import Path
from typing import Any

import slicer

_open: list[Any] = []


class _Database:
    """A database of the series of the folders that were imported."""

    def __init__(self) -> None:
        self.series: dict[str, tuple[Any, list[str]]] = {}

    def patients(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(d.get("PatientID", "")) for d, _ in self.series.values()))


class TemporaryDICOMDatabase:
    def __init__(self, directory: str | None = None) -> None:
        self.database = _Database()

    def __enter__(self) -> _Database:
        _open.append(self.database)
        return self.database

    def __exit__(self, *error: Any) -> None:
        _open.remove(self.database)


def import_dicom(folder: str, database: _Database) -> None:
    import pydicom

    if not isinstance(folder, str):
        raise ValueError("importDicom takes a str")
    for path in sorted(Path(folder).rglob("*")):
        if not path.is_file() or not pydicom.misc.is_dicom(path):
            continue
        header = pydicom.dcmread(path, stop_before_pixels=True)
        database.series.setdefault(header.SeriesInstanceUID, (header, []))[1].append(str(path))


def load_patient(patient: str) -> list[str]:
    import numpy as np
    import SimpleITK as sitk

    loaded = []
    for uid, (header, _files) in _open[-1].series.items():
        if str(header.get("PatientID", "")) != patient or "Rows" not in header:
            continue
        folder = str(Path(_files[0]).parent)
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, uid)
        image = sitk.ReadImage(names)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        node.SetName(slicer.mrmlScene.GenerateUniqueName(str(header.get("SeriesDescription", uid))))
        array = sitk.GetArrayFromImage(image)
        slicer.util.updateVolumeFromArray(node, array.astype(np.float32))
        matrix = np.eye(4)
        direction = np.reshape(image.GetDirection(), (3, 3))
        matrix[:3, :3] = direction * image.GetSpacing()
        matrix[:3, 3] = image.GetOrigin()
        node.SetIJKToRASMatrix(
            slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)
        )
        node.CreateDefaultDisplayNodes()
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        item = tree.GetItemByDataNode(node) or tree.CreateItem(tree.GetSceneItemID(), node)
        tree.SetItemAttribute(item, "DICOM.Modality", str(header.Modality))
        loaded.append(node.GetID())
    return loaded


def dicom_module() -> types.ModuleType:
    module = types.ModuleType("DICOMLib")
    module.DICOMUtils = types.SimpleNamespace(
        TemporaryDICOMDatabase=TemporaryDICOMDatabase,
        importDicom=import_dicom,
        loadPatientByUID=load_patient,
    )
    return module


class SampleDataSource:
    def __init__(self, values: dict[str, Any]) -> None:
        for name in ("uris", "fileNames", "nodeNames", "loadFileTypes"):
            if isinstance(values.get(name), str):
                values[name] = [values[name]]
        if isinstance(values.get("checksums"), str):
            values["checksums"] = [values["checksums"]]
        counts = {len(values[n]) for n in ("uris", "fileNames", "nodeNames") if values.get(n)}
        if len(counts) != 1:
            raise ValueError("uris, fileNames and nodeNames must be equally long")
        self.values = values


class SampleDataLogic:
    sources: dict[str, SampleDataSource] = {}

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: Any = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
    ) -> None:
        SampleDataLogic.sources[str(sampleName)] = SampleDataSource(dict(locals()))

    def downloadSample(self, name: str) -> Any:
        """The first node of a sample, as in the application."""
        return self.downloadSamples(name)[0]

    def downloadSamples(self, name: str) -> list[Any]:
        """Fetch, check and load; a custom downloader is ignored here, as in the application."""
        values = self.sources[name].values
        nodes = []
        for uri, file, node_name, checksum in zip(
            values["uris"],
            values["fileNames"],
            values["nodeNames"],
            values["checksums"] or [None] * len(values["uris"]),
            strict=True,
        ):
            target = str(Path(slicer.app.temporaryPath) / file)
            urllib.request.urlretrieve(uri, target)
            if checksum is not None:
                algorithm, digest = checksum.split(":")
                if slicer.util.computeChecksum(algorithm, target) != digest:
                    raise ValueError(f"checksum of {file} differs")
            nodes.append(
                slicer.util.loadVolume(target, properties={"name": node_name, "show": False})
            )
        return nodes


def sample_module() -> types.ModuleType:
    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    return module
