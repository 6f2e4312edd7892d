"""DICOM series of slices: a synthetic CT, and a µ-map as integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from SynthCTLib.errors import InputError
from SynthCTLib.export.dicom_object import (
    MU_OF_CT,
    SYNTHETIC_CT,
    Describing,
    Slices,
    coded,
    derivation_text,
    save,
    whole_numbers,
)
from SynthCTLib.export.dicom_study import Study, new_uid
from SynthCTLib.export.origin import Origin, convention_of
from SynthCTLib.physics.mumap import check_mu_map
from SynthCTLib.volume import Role, Unit, Volume

MU_SCALE = 1e4  # stored integers per 1/cm, as the µ-maps of PET/MR scanners have it
CT_SERIES_NUMBER, INTEGER_MU_SERIES_NUMBER = 9001, 9003


def write_ct_series(ct: Volume, folder: Path, study: Study, origin: Origin) -> tuple[Path, ...]:
    """Write a CT in HU as CT Image Storage, one file a slice (``ct_0001.dcm``, from the feet up).

    Stored are HU rounded to whole numbers, slope 1 and intercept 0: an error of at most 0.5 HU.
    Axial slices whatever the axis order of the volume; an oblique volume stays oblique. Raises
    InputError for anything but a CT in HU, OutputError when it cannot be written.
    """
    if ct.role != Role.CT:
        raise InputError(f"A CT series is written from a CT and this is a {ct.role} volume.")
    ct.require_unit(Unit.HU)
    kind = "synthetic CT" if ct.provenance.is_synthetic else "CT"
    series = Describing(
        study,
        origin,
        CT_SERIES_NUMBER,
        f"SynthCT {kind}{_by(origin)}",
        SYNTHETIC_CT,
        derivation_text(origin, f"{kind[0].upper()}{kind[1:]} in HU"),
    )
    slices = Slices.of(ct)
    stored = whole_numbers(slices.array, np.int16, "CT")

    def described() -> Iterator[Dataset]:
        for index, dataset in enumerate(_datasets(series, slices, CTImageStorage)):
            dataset.Modality = "CT"
            dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
            dataset.KVP = dataset.AcquisitionNumber = None
            dataset.RescaleIntercept, dataset.RescaleSlope = "0", "1"
            dataset.RescaleType = "HU"
            dataset.WindowCenter, dataset.WindowWidth = ["40", "400"], ["400", "2000"]
            dataset.WindowCenterWidthExplanation = ["soft tissue", "bone"]
            _set_pixels(dataset, stored[index], signed=True)
            yield dataset

    return _saved(list(described()), folder, "ct")


def write_integer_mu(mu: Volume, folder: Path, study: Study, origin: Origin) -> tuple[Path, ...]:
    """Write a µ-map as integers, 10000 x µ in 1/cm, one file a slice (``mumap_0001.dcm``).

    The form of PET/MR scanners' own µ-maps, for readers that know no parametric maps: MR Image
    Storage without rescale, so that readers show the integers. The scale stands in the Real World
    Value Mapping and the image comments. The rounding is at most 0.00005 1/cm. Raises InputError
    when the volume is no plausible µ-map in 1/cm, OutputError when it cannot be written.
    """
    check_mu_map(mu)
    convention = convention_of(mu)
    kind = "synthetic mu-map" if mu.provenance.is_synthetic else "mu-map"
    series = Describing(
        study,
        origin,
        INTEGER_MU_SERIES_NUMBER,
        f"SynthCT {kind} x10000{_by(origin)}",
        MU_OF_CT,
        derivation_text(
            origin, f"10000 x linear attenuation at 511 keV in 1/cm{_from(convention)}"
        ),
    )
    slices = Slices.of(mu)
    stored = whole_numbers(slices.array.astype(np.float64) * MU_SCALE, np.uint16, "µ-map")
    largest = int(stored.max())

    def described() -> Iterator[Dataset]:
        for index, dataset in enumerate(_datasets(series, slices, MRImageStorage)):
            dataset.Modality = "MR"
            dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
            dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"  # RM: research mode
            dataset.ScanOptions = dataset.MRAcquisitionType = ""
            dataset.EchoTime = dataset.EchoTrainLength = dataset.RepetitionTime = None
            dataset.SpacingBetweenSlices = dataset.SliceThickness
            dataset.ImageComments = "Stored values are 10000 x mu in 1/cm: divide by 10000"
            dataset.WindowCenter, dataset.WindowWidth = "1000", "2000"
            dataset.RealWorldValueMappingSequence = Items([_mapping(largest)])
            _set_pixels(dataset, stored[index], signed=False)
            yield dataset

    return _saved(list(described()), folder, "mumap")


def _by(origin: Origin) -> str:
    return f" ({origin.model})" if origin.model else ""


def _from(convention: dict[str, object] | None) -> str:
    return f" from CT by convention {convention['name']}" if convention else ""


def _datasets(series: Describing, slices: Slices, sop_class: str) -> Iterator[Dataset]:
    derivation, sources = series.derivation_items(), series.source_images()
    for index in range(len(slices.array)):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = new_uid()
        series.put_on(dataset)
        slices.put_on(dataset, index)
        dataset.DerivationDescription = series.derivation_text
        dataset.DerivationCodeSequence = derivation
        if sources:
            dataset.SourceImageSequence = sources
        dataset.BurnedInAnnotation = "NO"
        yield dataset


def _set_pixels(dataset: Dataset, stored: np.ndarray, *, signed: bool) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()


def _mapping(largest: int) -> Dataset:
    """Stored integers to 1/cm, over the range that is there."""
    mapping, quantity = Dataset(), Dataset()
    mapping.RealWorldValueFirstValueMapped = 0
    mapping.RealWorldValueLastValueMapped = largest
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 1 / MU_SCALE, 0.0
    mapping.LUTLabel = "mu"
    mapping.LUTExplanation = "Linear attenuation at 511 keV in 1/cm"
    mapping.MeasurementUnitsCodeSequence = Items([coded(codes.UCUM.PerCentimeter)])
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = Items([coded(codes.SCT.Quantity)])
    quantity.ConceptCodeSequence = Items([coded(codes.DCM.AttenuationCoefficient)])
    mapping.QuantityDefinitionSequence = Items([quantity])
    return mapping


def _saved(datasets: list[Dataset], folder: Path, name: str) -> tuple[Path, ...]:
    paths = [folder / f"{name}_{number:04d}.dcm" for number in range(1, len(datasets) + 1)]
    return save(datasets, paths)
