"""The standardised uptake value by body weight (SUVbw) from what the tags of a PET series say.

    SUVbw = activity concentration (Bq/ml) * body weight (g) / activity left at the time (Bq)

The activity left is the injected one, decayed to the moment that the image's values are corrected
to. Which moment that is, the vendors write in different places: the rules are those of QIBA's
vendor-neutral pseudo-code ("SUV calculation", FDG-PET/CT technical committee), with the time of a
Siemens series from Frame Reference Time as in cornerstonejs/calculate-suv. Anything missing,
impossible or contradictory is refused by the name of its tag; nothing is guessed in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TypeVar

from SynthCTLib.errors import InputError

# A person is given 10 MBq (a child) to some GBq (82Rb). Below 1 MBq it was typed in MBq or kBq.
LEAST_DOSE_BQ, MOST_DOSE_BQ = 1e6, 1e10
MOST_WEIGHT_KG = 500.0
# Nothing is imaged when a thousandth is left: the time or the half-life is wrong.
MOST_HALF_LIVES = 10.0
# Start Time and Start DateTime are the same moment, rounded to the minute by some.
SAME_TIME_S = 60.0
_DAY = timedelta(days=1)
_Value = TypeVar("_Value", datetime, time, float)


@dataclass(frozen=True)
class SuvTags:
    """What a PET series says about its units; None where it says nothing.

    ``acquired`` is the earliest Acquisition Date and Time of all slices; ``frame_reference_s`` and
    ``frame_duration_s`` are those of that slice. ``injected`` is Radiopharmaceutical Start
    DateTime, ``injection_time`` Radiopharmaceutical Start Time, which has no date. All times are
    of one clock. ``ge_scanned`` is GE's (0009,xx0D), ``philips_suv`` and ``philips_bq_per_ml``
    Philips' (7053,xx00) and (7053,xx09), each by its private creator.
    """

    units: str | None = None
    suv_type: str | None = None
    corrected: tuple[str, ...] = ()
    decay_correction: str | None = None
    manufacturer: str | None = None
    weight_kg: float | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    injected: datetime | None = None
    injection_time: time | None = None
    series: datetime | None = None
    acquired: datetime | None = None
    frame_reference_s: float | None = None
    frame_duration_s: float | None = None
    ge_scanned: datetime | None = None
    philips_suv: float | None = None
    philips_bq_per_ml: float | None = None


@dataclass(frozen=True)
class SuvScale:
    """What the (rescaled) values of a series are multiplied by to be SUVbw.

    ``how`` tells in words where the factor comes from, ``decay_s`` the seconds of decay counted
    (None where there was nothing to count), and ``across_midnight`` that the day before was
    assumed for an injection without a date.
    """

    factor: float
    how: str
    decay_s: float | None = None
    across_midnight: bool = False


def suv_scale(tags: SuvTags) -> SuvScale:
    """The factor from the values of a series, after its rescale slopes, to SUVbw (g/ml).

    Units GML: 1. BQML: by weight, dose and decay. CNTS: Philips' own factor to SUV or, where that
    is absent or 0, its factor to Bq/ml and then as BQML. Decay Correction START: decayed from the
    injection to the reference time (see ``reference_time``); ADMIN: values are already corrected
    to the injection, nothing decays.

    Raises InputError naming the tag that is missing, out of range or in contradiction.
    """
    if tags.units == "GML":
        if tags.suv_type not in (None, "BW"):
            raise _refused(f"SUV Type is {tags.suv_type}, not BW (body weight)")
        return SuvScale(1.0, "Units GML")
    if tags.units not in ("BQML", "CNTS"):
        said = "is missing" if tags.units is None else f"is {tags.units}"
        raise _refused(f"Units {said}, where BQML, CNTS or GML is needed")
    _require_corrections(tags)
    if tags.units == "BQML":
        return _by_weight(tags, 1.0, "Units BQML")
    if tags.philips_suv:
        factor = _positive(tags.philips_suv, "Philips' SUV Scale Factor (7053,xx00)")
        return SuvScale(factor, "Philips' SUV Scale Factor")
    if tags.philips_bq_per_ml:
        to_bq = _positive(
            tags.philips_bq_per_ml, "Philips' Activity Concentration Scale Factor (7053,xx09)"
        )
        return _by_weight(tags, to_bq, "Philips' Activity Concentration Scale Factor")
    raise _refused("Units is CNTS and Philips' scale factors (7053,xx00 and 7053,xx09) are missing")


def reference_time(tags: SuvTags) -> tuple[datetime, str]:
    """The moment that a series with Decay Correction START is corrected to, and whose word it is.

    Series Date and Time, unless the series was written after the acquisition began (a derived or
    stored-again series): then GE's own scan time; for Siemens the acquisition time less Frame
    Reference Time plus the time within the frame at which the mean count rate occurs,
    ln(l T / (1 - exp(-l T))) / l for a frame of T seconds and decay l; else the earliest
    Acquisition Date and Time. Raises InputError naming the tag that is missing.
    """
    acquired = _present(tags.acquired, "Acquisition Date and Time")
    series = _present(tags.series, "Series Date and Time")
    if series <= acquired:
        return series, "Series Time"
    if tags.ge_scanned is not None:
        if tags.ge_scanned > acquired + timedelta(seconds=SAME_TIME_S):
            raise _refused("GE's scan time (0009,xx0D) is after Acquisition Time")
        return tags.ge_scanned, "GE's scan time"
    if "siemens" not in (tags.manufacturer or "").lower():
        return acquired, "Acquisition Time"
    reference_s = _present(tags.frame_reference_s, "Frame Reference Time")
    duration_s = _positive(tags.frame_duration_s, "Actual Frame Duration")
    decay = math.log(2) / _positive(tags.half_life_s, "Radionuclide Half Life")
    # expm1: exact for frames that are short against the half-life
    mean_s = math.log(decay * duration_s / -math.expm1(-decay * duration_s)) / decay
    started = acquired + timedelta(seconds=mean_s - reference_s)
    if started > acquired + timedelta(seconds=SAME_TIME_S):
        raise _refused("Frame Reference Time is before the frame of Acquisition Time")
    return started, "Frame Reference Time"


def _require_corrections(tags: SuvTags) -> None:
    if not tags.corrected:
        raise _refused("Corrected Image is missing")
    if tags.decay_correction not in ("START", "ADMIN"):
        said = "missing" if tags.decay_correction is None else tags.decay_correction
        raise _refused(f"Decay Correction is {said}, where START or ADMIN is needed")
    if not {"DECY", "DECAY"} & set(tags.corrected):
        raise _refused(
            f"Corrected Image has no DECY although Decay Correction is {tags.decay_correction}"
        )
    if "ATTN" not in tags.corrected:
        raise _refused("Corrected Image has no ATTN: the image is not attenuation corrected")


def _by_weight(tags: SuvTags, to_bq_per_ml: float, how: str) -> SuvScale:
    weight = _positive(tags.weight_kg, "Patient's Weight")
    if weight > MOST_WEIGHT_KG:
        raise _refused(f"Patient's Weight is {weight:g} kg")
    dose = _positive(tags.dose_bq, "Radionuclide Total Dose")
    if not LEAST_DOSE_BQ <= dose <= MOST_DOSE_BQ:
        mistyped = ", which looks like MBq or kBq typed as Bq" if dose < LEAST_DOSE_BQ else ""
        raise _refused(f"Radionuclide Total Dose is {dose:g} Bq{mistyped}")
    factor = to_bq_per_ml * 1000.0 * weight / dose
    given = f"{how}, {weight:g} kg, {dose / 1e6:.1f} MBq"
    if tags.decay_correction == "ADMIN":
        return SuvScale(factor, f"{given}, decay corrected to the injection")
    half_life = _positive(tags.half_life_s, "Radionuclide Half Life")
    reference, source = reference_time(tags)
    injected, across_midnight = _injection(tags, reference)
    decay_s = (reference - injected).total_seconds()
    if decay_s > MOST_HALF_LIVES * half_life:
        raise _refused(
            f"the injection (Radiopharmaceutical Start Time) is {decay_s / 3600:.1f} h before "
            f"{source}, more than {MOST_HALF_LIVES:g} times Radionuclide Half Life "
            f"({half_life:g} s)"
        )
    described = f"{given}, decayed for {decay_s / 60:.1f} min from the injection to {source}"
    if across_midnight:
        described += ", the injection taken for the day before as it has no date"
    return SuvScale(factor * 2.0 ** (decay_s / half_life), described, decay_s, across_midnight)


def _injection(tags: SuvTags, reference: datetime) -> tuple[datetime, bool]:
    """When the patient was injected, and whether the day before was assumed."""
    if tags.injected is not None:
        if tags.injection_time is not None and _apart_s(tags) > SAME_TIME_S:
            raise _refused(
                "Radiopharmaceutical Start Time and Radiopharmaceutical Start DateTime contradict "
                "each other"
            )
        if tags.injected > reference:
            raise _refused("Radiopharmaceutical Start DateTime is after the scan")
        return tags.injected, False
    clock = _present(tags.injection_time, "Radiopharmaceutical Start Time")
    injected = datetime.combine(reference.date(), clock)
    return (injected - _DAY, True) if injected > reference else (injected, False)


def _apart_s(tags: SuvTags) -> float:
    """Seconds between the two times of injection on the face of a clock."""
    assert tags.injected is not None
    assert tags.injection_time is not None
    same_day = datetime.combine(tags.injected.date(), tags.injection_time)
    apart = abs((same_day - tags.injected).total_seconds())
    return min(apart, _DAY.total_seconds() - apart)


def _present(value: _Value | None, name: str) -> _Value:
    if value is None:
        raise _refused(f"{name} is missing")
    return value


def _positive(value: float | None, name: str) -> float:
    if value is None:
        raise _refused(f"{name} is missing")
    if not (math.isfinite(value) and value > 0):
        raise _refused(f"{name} is {value:g}")
    return value


def _refused(reason: str) -> InputError:
    return InputError(f"SUV cannot be computed: {reason}; correct the tag or give a PET in SUV.")
