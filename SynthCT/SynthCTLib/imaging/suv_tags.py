"""The tags of a PET series that its SUV depends on, from the headers of all its slices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import date, datetime, time, tzinfo
from pathlib import Path
from typing import Any

import pydicom
from pydicom.valuerep import DA, DT, TM

from SynthCTLib.errors import InputError
from SynthCTLib.physics.suv import SuvTags

GE_CREATOR = "GEMS_PETD_01"
PHILIPS_CREATOR = "Philips PET Private Group"

# What these are called in a message; they may differ from slice to slice of a sound series.
_OF_A_SLICE = ("acquired", "frame_reference_s", "frame_duration_s", "ge_scanned")
_NAMES = {
    "units": "Units",
    "suv_type": "SUV Type",
    "corrected": "Corrected Image",
    "decay_correction": "Decay Correction",
    "manufacturer": "Manufacturer",
    "weight_kg": "Patient's Weight",
    "dose_bq": "Radionuclide Total Dose",
    "half_life_s": "Radionuclide Half Life",
    "injected": "Radiopharmaceutical Start DateTime",
    "injection_time": "Radiopharmaceutical Start Time",
    "series": "Series Date and Time",
    "philips_suv": "Philips' SUV Scale Factor (7053,xx00)",
    "philips_bq_per_ml": "Philips' Activity Concentration Scale Factor (7053,xx09)",
}


def suv_tags_of(files: Sequence[Path]) -> SuvTags:
    """What the slices of a PET series say together.

    Raises InputError, naming the tag, for a value that cannot be read, for more than one
    radiopharmaceutical, and for slices that contradict each other.
    """
    slices = [_tags_of(path) for path in files]
    first = min(slices, key=lambda tags: (tags.acquired is None, tags.acquired or datetime.min))
    for field in fields(SuvTags):
        values = {getattr(tags, field.name) for tags in slices}
        if field.name not in _OF_A_SLICE and len(values) > 1:
            raise InputError(
                f"SUV cannot be computed: {_NAMES[field.name]} differs between the slices in "
                f"{files[0].parent}; export the series again."
            )
    return first


def _tags_of(path: Path) -> SuvTags:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every value too long for its VR
        header = pydicom.dcmread(path, stop_before_pixels=True)
        items = header.get("RadiopharmaceuticalInformationSequence") or []
        if len(items) > 1:
            raise InputError(
                f"SUV cannot be computed: Radiopharmaceutical Information Sequence of {path} "
                "lists several; give a series of one tracer."
            )
        tracer = items[0] if items else pydicom.Dataset()
        offset = header.get("TimezoneOffsetFromUTC")
        zone = _parsed(offset, "TimezoneOffsetFromUTC", _zone, path)

        def moment(value: Any) -> datetime:
            return _moment(value, zone)

        def parsed(source: Any, keyword: str, parse: Callable[[Any], Any]) -> Any:
            return _parsed(source.get(keyword), keyword, parse, path)

        def private(group: int, creator: str, element: int, parse: Callable[[Any], Any]) -> Any:
            name = f"({group:04X},xx{element:02X}) of {creator}"
            return _parsed(_private(header, group, creator, element), name, parse, path)

        corrected = header.get("CorrectedImage") or ()
        return SuvTags(
            units=parsed(header, "Units", str),
            suv_type=parsed(header, "SUVType", str),
            corrected=(corrected,) if isinstance(corrected, str) else tuple(map(str, corrected)),
            decay_correction=parsed(header, "DecayCorrection", str),
            manufacturer=parsed(header, "Manufacturer", str),
            weight_kg=parsed(header, "PatientWeight", float),
            dose_bq=parsed(tracer, "RadionuclideTotalDose", float),
            half_life_s=parsed(tracer, "RadionuclideHalfLife", float),
            injected=parsed(tracer, "RadiopharmaceuticalStartDateTime", moment),
            injection_time=parsed(tracer, "RadiopharmaceuticalStartTime", _clock),
            series=_together(header, "Series", path),
            acquired=_together(header, "Acquisition", path),
            frame_reference_s=parsed(header, "FrameReferenceTime", _from_ms),
            frame_duration_s=parsed(header, "ActualFrameDuration", _from_ms),
            ge_scanned=private(0x0009, GE_CREATOR, 0x0D, moment),
            philips_suv=private(0x7053, PHILIPS_CREATOR, 0x00, float),
            philips_bq_per_ml=private(0x7053, PHILIPS_CREATOR, 0x09, float),
        )


def _parsed(value: Any, name: str, parse: Callable[[Any], Any], path: Path) -> Any:
    """The value of a tag, None where it is absent or empty."""
    if isinstance(value, bytes):  # a private tag that no dictionary knows
        value = value.decode("ascii", "replace").strip(" \0")
    if value is None or value == "":
        return None
    try:
        return parse(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise InputError(
            f"SUV cannot be computed: {name} of {path} cannot be read ({str(value)[:40]!r}); "
            "correct the tag or give a PET in SUV."
        ) from None


def _private(header: pydicom.Dataset, group: int, creator: str, element: int) -> Any:
    """A private element by its creator, whose block is 10 only by habit."""
    for block in range(0x10, 0x100):
        owner = header.get((group, block))
        if owner is not None and str(owner.value).strip() == creator:
            found = header.get((group, (block << 8) | element))
            if found is not None:
                return found.value
    return None


def _from_ms(value: Any) -> float:
    return float(value) / 1000.0


def _clock(value: Any) -> time:
    # ACR-NEMA wrote colons.
    read = TM(str(value).replace(":", ""))
    return time(read.hour, read.minute, read.second, read.microsecond)


def _together(header: pydicom.Dataset, kind: str, path: Path) -> datetime | None:
    """Date and time of ``kind`` as one moment, None unless both are there."""
    day = _parsed(header.get(f"{kind}Date"), f"{kind}Date", _day, path)
    clock = _parsed(header.get(f"{kind}Time"), f"{kind}Time", _clock, path)
    return None if day is None or clock is None else datetime.combine(day, clock)


def _day(value: Any) -> date:
    read = DA(str(value).replace(".", ""))
    return date(read.year, read.month, read.day)


def _zone(value: Any) -> tzinfo | None:
    return datetime.strptime(str(value), "%z").tzinfo


def _moment(value: Any, zone: tzinfo | None) -> datetime:
    """A DT on the clock that the series' dates and times are of.

    With an offset from UTC it is moved to the series' zone; where the series names none, its
    clock is the local one and the DT's offset is left out.
    """
    read = DT(str(value))
    moment = datetime(
        read.year, read.month, read.day, read.hour, read.minute, read.second, read.microsecond
    )
    if read.tzinfo is None or zone is None:
        return moment
    return moment.replace(tzinfo=read.tzinfo).astimezone(zone).replace(tzinfo=None)
