"""What the values of a series are: its role, its unit, and the factor to SUV."""

from __future__ import annotations

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.dicom.listing import DicomSeries
from SynthCTLib.imaging.slices import Header
from SynthCTLib.imaging.suv_tags import suv_tags_of
from SynthCTLib.physics.suv import SuvTags, suv_scale
from SynthCTLib.volume import DEFAULT_UNIT, Role, Step, Unit

_SCANNED_ROLES = (Role.MR, Role.CT, Role.PET, Role.NAC_PET)


def checked_role(series: DicomSeries, role: Role | None, top: Header) -> Role:
    """The role to read a series in. Raises InputError when it cannot be the one asked for."""
    if role is None:
        if series.role is None:
            raise InputError(
                f"The {series.title} is neither MR, CT nor PET: say what it is by its role."
            )
        return series.role
    if role not in _SCANNED_ROLES or role == series.role:
        return role
    if {role, series.role} == {Role.PET, Role.NAC_PET}:
        if "CorrectedImage" not in top:
            return role
        done = "is" if series.role == Role.PET else "is not"
        raise InputError(
            f"The {series.title} {done} attenuation corrected (Corrected Image) and was given as "
            f"{role}: choose the other reconstruction or give it as {series.role}."
        )
    raise InputError(
        f"The {series.title} was given as {role} and is a {series.modality} image: "
        "choose the right series."
    )


def unit_of(
    series: DicomSeries, role: Role, unit: Unit | None, top: Header
) -> tuple[Unit, list[Step]]:
    """The unit of the values, and what had to be assumed. Raises InputError for a CT not in HU."""
    if unit is not None:
        return unit, []
    if role == Role.CT:
        scale = str(top.get("RescaleType", "HU"))
        if scale not in ("HU", "US"):  # US: unspecified, written by older scanners for HU
            raise InputError(
                f"The {series.title} is in {scale} (Rescale Type) and not in HU: "
                "choose the series in Hounsfield units."
            )
        return Unit.HU, []
    if not is_pet(role):
        return DEFAULT_UNIT[role], []
    units, weighting = str(top.get("Units", "none")), str(top.get("SUVType", "BW"))
    if units == "BQML":
        return Unit.BQ_PER_ML, []
    if units == "GML" and weighting == "BW":
        return Unit.SUV, []
    said = f"{units} (SUV by {weighting})" if units == "GML" else units
    note = f"The {series.title} has the units {said}: its values are taken as arbitrary."
    return Unit.ARBITRARY, [Step("take_as_arbitrary", {"units": said, "note": note})]


def is_pet(role: Role) -> bool:
    """Whether the role is that of a PET, corrected for attenuation or not."""
    return role in (Role.PET, Role.NAC_PET)


def to_suv_of(series: DicomSeries, top: Header) -> tuple[float, list[Step]]:
    """The factor from the values of a PET to SUV, and the step that tells of it."""
    if top.get("Units") == "GML":  # SUV already: no other tag is needed, or asked
        tags = SuvTags(units="GML", suv_type=top.get("SUVType"))
    else:
        tags = suv_tags_of(series.files)
    try:
        scale = suv_scale(tags)
    except InputError as error:
        raise InputError(f"{series.title}: {error}") from None
    if tags.units == "GML":
        return scale.factor, []
    note = (
        f"The {series.title} was converted to SUV: values times {scale.factor:.4g} ({scale.how})."
    )
    settings = {
        "units": tags.units,
        "factor": scale.factor,
        "decay_correction": tags.decay_correction,
        "decay_s": scale.decay_s,
        "across_midnight": scale.across_midnight,
        "note": note,
    }
    return scale.factor, [Step("convert_to_suv", settings)]
