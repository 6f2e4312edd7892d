"""A µ-map as DICOM Parametric Map Storage: float32, 1/cm, no rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage

from SynthCTLib import __version__
from SynthCTLib.export.dicom_object import (
    MU_OF_CT,
    SOFTWARE,
    Describing,
    Slices,
    coded,
    derivation_text,
    save,
)
from SynthCTLib.export.dicom_study import Study, new_uid
from SynthCTLib.export.origin import Origin, convention_of
from SynthCTLib.physics.mumap import check_mu_map
from SynthCTLib.volume import Volume

SERIES_NUMBER = 9002
_REGIONS = {
    "HEAD": Code("69536005", "SCT", "Head"),
    "BRAIN": Code("12738006", "SCT", "Brain"),
}
WINDOW_PER_CM = (0.1, 0.2)  # centre and width: air black, dense bone white


def write_parametric_mu(mu: Volume, folder: Path, study: Study, origin: Origin) -> tuple[Path, ...]:
    """Write a µ-map as one Parametric Map, ``mumap.dcm``, a frame a slice, exact float32.

    Unit /cm (UCUM), quantity Attenuation Coefficient (DCM 112031). Raises InputError when the
    volume is no plausible µ-map in 1/cm, OutputError when it cannot be written.
    """
    import highdicom as hd

    check_mu_map(mu)
    convention = convention_of(mu)
    name = f" by convention {convention['name']}" if convention else ""
    kind = "synthetic mu-map" if mu.provenance.is_synthetic else "mu-map"
    series = Describing(
        study,
        origin,
        SERIES_NUMBER,
        f"SynthCT {kind} 511 keV" + (f" ({origin.model})" if origin.model else ""),
        MU_OF_CT,
        derivation_text(origin, f"Linear attenuation at 511 keV in 1/cm from CT{name}"),
    )
    slices = Slices.of(mu)
    values = np.ascontiguousarray(slices.array, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    centre, width = WINDOW_PER_CM
    made = hd.pm.ParametricMap(
        source_images=[_stand_in(study, slices)],
        # Not Volume.from_attributes, which stacks the slices the other way.
        pixel_array=hd.Volume(
            array=values,
            affine=slices.affine,
            coordinate_system=hd.CoordinateSystemNames.PATIENT,
            frame_of_reference_uid=study.frame_of_reference,
        ),
        series_instance_uid=series.series_uid,
        series_number=series.number,
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer=SOFTWARE,
        manufacturer_model_name=SOFTWARE,
        software_versions=__version__,
        device_serial_number=__version__,
        contains_recognizable_visual_features=True,  # the surface of a face
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label="mu",
                lut_explanation="Linear attenuation at 511 keV in 1/cm",
                unit=codes.UCUM.PerCentimeter,
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
                quantity_definition=codes.DCM.AttenuationCoefficient,
            )
        ],
        # A window narrower than 1 is allowed for LINEAR_EXACT alone (PS3.3 C.11.2.1.3.2).
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=centre,
                window_width=width,
                voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT,
            )
        ],
        content_label="MU_MAP",
        content_description="Linear attenuation at 511 keV",
        content_creator_name=f"{SOFTWARE}^",
    )
    _put_upward(made, slices, values)
    series.put_on(made)
    _set_derivation(made, series)
    _set_anatomy(made, study.body_part)
    organization = new_uid()  # highdicom's own would stand under its root
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return save([made], [folder / "mumap.dcm"])


def _put_upward(made: Dataset, slices: Slices, values: np.ndarray) -> None:
    """Frames in the order of the slices, upward.

    highdicom writes them downward, each with its right place; dcmqi, the reader in 3D Slicer,
    stacks frames as they come from the lowest place on, and would turn the map upside down.
    """
    upward = slices.affine[:3, 0]

    def height(group: Dataset) -> float:
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        return float(place @ upward)

    ordered = sorted(made.PerFrameFunctionalGroupsSequence, key=height)
    for number, group in enumerate(ordered, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = [number]
    made.PerFrameFunctionalGroupsSequence = Items(ordered)
    made.FloatPixelData = values.astype("<f4").tobytes()


def _set_derivation(made: Dataset, series: Describing) -> None:
    """Our derivation and sources in place of those of the stand-in."""
    shared = made.SharedFunctionalGroupsSequence[0]
    for group in (shared, *made.PerFrameFunctionalGroupsSequence):
        if "DerivationImageSequence" in group:
            del group.DerivationImageSequence
    for keyword in ("SourceImageSequence", "ReferencedImageSequence"):
        if keyword in made:
            delattr(made, keyword)
    if not series.study.references:
        if "ReferencedSeriesSequence" in made:
            del made.ReferencedSeriesSequence
        return
    derivation = Dataset()
    derivation.DerivationDescription = series.derivation_text
    derivation.DerivationCodeSequence = series.derivation_items()
    derivation.SourceImageSequence = series.source_images()
    shared.DerivationImageSequence = Items([derivation])


def _set_anatomy(made: Dataset, body_part: str) -> None:
    """The region of the body; dcmqi, the reader in 3D Slicer, crashes on a map without one."""
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"  # unpaired
    region = _REGIONS.get(body_part, Code("38266002", "SCT", "Entire body"))
    anatomy.AnatomicRegionSequence = Items([coded(region)])
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = Items([anatomy])
    if "Laterality" in made:  # it stands in the frame's anatomy now
        del made.Laterality


def _stand_in(study: Study, slices: Slices) -> Dataset:
    """An image that highdicom takes the study and the frame from. It goes into no file.

    Its patient is nobody: highdicom warns of names that real files have.
    """
    dataset = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        setattr(dataset, keyword, "")
    for keyword in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(dataset, keyword, "")
    dataset.ReferringPhysicianName = ""
    dataset.StudyInstanceUID = study.attributes.StudyInstanceUID
    dataset.FrameOfReferenceUID = study.frame_of_reference
    dataset.PositionReferenceIndicator = study.position_reference
    slices.put_on(dataset, 0)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, new_uid()
    dataset.SeriesInstanceUID = new_uid()
    dataset.Rows, dataset.Columns = slices.array.shape[1:]
    dataset.Modality = "CT"
    return dataset
