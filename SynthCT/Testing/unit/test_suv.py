"""SUV by body weight: each branch of the tags with values by hand, and every reason to refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import read_volume, reading_notes
from SynthCTLib.imaging.suv_tags import suv_tags_of
from SynthCTLib.physics.suv import SuvTags, suv_scale
from SynthCTLib.volume import Role, Unit

# 74 kg and 370 MBq: 2e-4 g/Bq at the injection, and the double of it after each half-life.
AT_INJECTION = 2e-4
HALF_LIFE_S = 3600.0
TAGS = SuvTags(
    units="BQML",
    corrected=("DECY", "ATTN", "SCAT"),
    decay_correction="START",
    weight_kg=74.0,
    dose_bq=370e6,
    half_life_s=HALF_LIFE_S,
    injection_time=time(10, 0),
    series=datetime(2024, 1, 31, 11, 0),
    acquired=datetime(2024, 1, 31, 11, 0),
)
REWRITTEN = datetime(2024, 1, 31, 15, 0)


def changed(**changes: Any) -> SuvTags:
    return replace(TAGS, **changes)


# --- the factor ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "factor", "said"),
    [
        ({}, 2 * AT_INJECTION, "60.0 min from the injection to Series Time"),
        ({"injection_time": time(9, 0)}, 4 * AT_INJECTION, "120.0 min"),
        ({"decay_correction": "ADMIN", "injection_time": None}, AT_INJECTION, "to the injection"),
        ({"injected": datetime(2024, 1, 31, 10, 0, 20)}, None, "59.7 min"),
        # the date of the injection is known, and it was two half-lives ago
        (
            {"injected": datetime(2024, 1, 30, 23, 0), "injection_time": None}
            | {"series": datetime(2024, 1, 31, 1, 0)},
            4 * AT_INJECTION,
            "120.0 min",
        ),
        # written again later: by GE's word, without it by the acquisition
        (
            {"series": REWRITTEN, "ge_scanned": datetime(2024, 1, 31, 11, 0)}
            | {"acquired": datetime(2024, 1, 31, 11, 3)},
            2 * AT_INJECTION,
            "GE's scan time",
        ),
        ({"series": REWRITTEN}, 2 * AT_INJECTION, "Acquisition Time"),
        # series time is the one that counts where it is not rewritten, whatever GE says
        ({"ge_scanned": datetime(2024, 1, 31, 12, 0)}, 2 * AT_INJECTION, "Series Time"),
        ({"units": "CNTS", "philips_suv": 0.0007}, 0.0007, "Philips' SUV Scale"),
        ({"units": "CNTS", "philips_bq_per_ml": 3.0}, 6 * AT_INJECTION, "Activity Concentration"),
        (
            {"units": "CNTS", "philips_suv": 0.0, "philips_bq_per_ml": 3.0},
            6 * AT_INJECTION,
            "Activity Concentration",
        ),
    ],
)
def test_factor_by_hand(changes: dict[str, Any], factor: float | None, said: str) -> None:
    scale = suv_scale(changed(**changes))
    if factor is None:  # 20 s less than one half-life
        factor = 2 * AT_INJECTION * 2 ** (-20 / HALF_LIFE_S)
    assert scale.factor == pytest.approx(factor, rel=1e-12)
    assert said in scale.how
    assert not scale.across_midnight


def test_suv_needs_nothing_else() -> None:
    assert suv_scale(SuvTags(units="GML")).factor == 1.0
    assert suv_scale(SuvTags(units="GML", suv_type="BW")).factor == 1.0


def test_uniform_activity_has_suv_one() -> None:
    """The injected activity, spread over the body and decayed to the scan, is SUV 1."""
    bq_per_ml = TAGS.dose_bq / 2 / (TAGS.weight_kg * 1000)  # one half-life, 1 g/ml
    assert bq_per_ml * suv_scale(TAGS).factor == pytest.approx(1.0)


def test_injection_before_midnight_is_of_the_day_before_and_said() -> None:
    scale = suv_scale(
        changed(
            injection_time=time(23, 30),
            series=datetime(2024, 2, 1, 0, 30),
            acquired=datetime(2024, 2, 1, 0, 31),
        )
    )
    assert scale.factor == pytest.approx(2 * AT_INJECTION)
    assert scale.across_midnight
    assert "day before" in scale.how


@pytest.mark.parametrize("duration_s", [1.0, 180.0, 1800.0])
def test_siemens_rewritten_series_is_corrected_to_the_start_of_the_scan(duration_s: float) -> None:
    """Frame Reference Time is when the frame's mean rate occurs: found here by bisection."""
    first_bed, decay = 600.0, math.log(2) / HALF_LIFE_S
    mean = (1 - math.exp(-decay * duration_s)) / (decay * duration_s)
    low, high = 0.0, duration_s
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.exp(-decay * middle) > mean else (low, middle)
    scale = suv_scale(
        changed(
            manufacturer="SIEMENS",
            series=REWRITTEN,
            acquired=datetime(2024, 1, 31, 11, 10),
            frame_reference_s=first_bed + low,
            frame_duration_s=duration_s,
        )
    )
    # The factor of a scan that began at 11:00, ten minutes before this bed. Times have µs.
    assert scale.factor == pytest.approx(2 * AT_INJECTION, rel=1e-9)
    assert "Frame Reference Time" in scale.how


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"units": None}, "Units is missing"),
        ({"units": "PROPCPS"}, "Units is PROPCPS"),
        ({"units": "GML", "suv_type": "LBM"}, "SUV Type is LBM"),
        ({"units": "CNTS"}, r"7053,xx00 and 7053,xx09\) are missing"),
        ({"units": "CNTS", "philips_suv": -1.0}, r"SUV Scale Factor \(7053,xx00\) is -1"),
        ({"units": "CNTS", "philips_bq_per_ml": math.inf}, "7053,xx09. is inf"),
        ({"corrected": ()}, "Corrected Image is missing"),
        ({"corrected": ("ATTN",)}, "no DECY although Decay Correction is START"),
        ({"corrected": ("DECY",)}, "no ATTN"),
        ({"decay_correction": None}, "Decay Correction is missing"),
        ({"decay_correction": "NONE"}, "Decay Correction is NONE"),
        ({"weight_kg": None}, "Patient's Weight is missing"),
        ({"weight_kg": 0.0}, "Patient's Weight is 0"),
        ({"weight_kg": math.nan}, "Patient's Weight is nan"),
        ({"weight_kg": 74000.0}, "Patient's Weight is 74000 kg"),
        ({"dose_bq": None}, "Radionuclide Total Dose is missing"),
        ({"dose_bq": 370.0}, "Total Dose is 370 Bq, which looks like MBq or kBq"),
        ({"dose_bq": 370e3}, "looks like MBq or kBq"),
        ({"dose_bq": 370e9}, "Radionuclide Total Dose is 3.7e.11 Bq"),
        ({"half_life_s": None}, "Radionuclide Half Life is missing"),
        ({"half_life_s": 0.0}, "Radionuclide Half Life is 0"),
        ({"half_life_s": 109.8}, "more than 10 times Radionuclide Half Life"),
        ({"injection_time": None}, "Radiopharmaceutical Start Time is missing"),
        # five minutes after the scan: not the evening of the day before
        ({"injection_time": time(11, 5)}, "Start Time. is 23.9 h before"),
        ({"injected": datetime(2024, 2, 1, 10, 0)}, "Start DateTime is after the scan"),
        ({"injected": datetime(2024, 1, 31, 9, 0)}, "contradict"),
        ({"injected": datetime(2024, 1, 30, 10, 0)}, "25.0 h before"),
        ({"series": None}, "Series Date and Time is missing"),
        ({"acquired": None}, "Acquisition Date and Time is missing"),
        (
            {"series": REWRITTEN, "ge_scanned": datetime(2024, 1, 31, 12, 0)},
            "GE's scan time .0009,xx0D. is after",
        ),
        ({"series": REWRITTEN, "manufacturer": "Siemens"}, "Frame Reference Time is missing"),
        (
            {"series": REWRITTEN, "manufacturer": "SIEMENS", "frame_reference_s": 90.0},
            "Actual Frame Duration is missing",
        ),
        (
            {"series": REWRITTEN, "manufacturer": "SIEMENS", "frame_reference_s": 0.0}
            | {"frame_duration_s": 1800.0},
            "Frame Reference Time is before the frame",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        suv_scale(changed(**changes))
    assert "\n" not in str(caught.value)
    assert "correct the tag" in str(caught.value)


# --- series --------------------------------------------------------------------------------

DICOM = {
    "Units": "BQML",
    "CorrectedImage": ["DECY", "ATTN"],
    "DecayCorrection": "START",
    "PatientWeight": "74",
    "SeriesDate": "20240131",
    "SeriesTime": "110000.00",
    "AcquisitionDate": "20240131",
    "AcquisitionTime": "110000",
}


def tracer(**tags: Any) -> Sequence:
    item = Dataset()
    given = {
        "RadionuclideTotalDose": "370000000",
        "RadionuclideHalfLife": "3600",
        "RadiopharmaceuticalStartTime": "100000.00",
    } | tags
    for keyword, value in given.items():
        if value is not None:
            setattr(item, keyword, value)
    return Sequence([item])


def write(
    dicom_series: ModuleType,
    folder: Path,
    *,
    slopes: Any = 1.0,
    change: Callable[[int, Dataset], None] = lambda index, dataset: None,
    sequence: Sequence | None = None,
    **tags: Any,
) -> None:
    """Three slices of 1000; a tag given as None is left out."""
    kept = {k: v for k, v in (DICOM | tags).items() if v is not None}
    kept["RadiopharmaceuticalInformationSequence"] = tracer() if sequence is None else sequence
    layout = dicom_series.Layout.regular(3, 1.0, slopes=slopes, tags=kept)
    stored = np.full((3, 4, 4), 1000, np.int16)
    dicom_series.write_series(folder, stored, layout, "PT", change=change)


def add_private(group: int, creator: str, block: int = 0x10, **elements: tuple[str, str]) -> Any:
    """A private block of the creator; ``e0d=("DT", value)`` is element 0D."""

    def change(_: int, dataset: Dataset) -> None:
        if block > 0x10:  # somebody else came first
            dataset.add_new((group, 0x10), "LO", "SOMEBODY ELSE")
            dataset.add_new((group, 0x1000), "DS", "99")
        dataset.add_new((group, block), "LO", creator)
        for name, (vr, value) in elements.items():
            dataset.add_new((group, block << 8 | int(name[1:], 16)), vr, value)

    return change


def suv_of(folder: Path) -> tuple[list[float], str]:
    """SUV of a voxel of each slice, and what is said of it."""
    volume = read_volume(folder, Role.PET, Unit.SUV)
    assert volume.unit == Unit.SUV
    assert volume.array.dtype == np.float32
    return volume.array[:, 1, 1].tolist(), " ".join(reading_notes(volume))


def test_a_series_in_bq_becomes_suv_slope_by_slope_and_says_so(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    write(dicom_series, tmp_path, slopes=[1.0, 2.5, 10.0])
    values, said = suv_of(tmp_path)
    assert values == pytest.approx([0.4, 1.0, 4.0])
    assert "values times 0.0004" in said
    assert "74 kg, 370.0 MBq, decayed for 60.0 min from the injection to Series Time" in said
    plain = read_volume(tmp_path, Role.PET)
    assert plain.unit == Unit.BQ_PER_ML
    assert plain.array.max() == 10000
    assert reading_notes(plain) == ()


def test_administered_and_midnight_in_a_series(dicom_series: ModuleType, tmp_path: Path) -> None:
    write(dicom_series, tmp_path / "admin", DecayCorrection="ADMIN", SeriesTime=None)
    assert suv_of(tmp_path / "admin")[0] == pytest.approx([0.2] * 3)
    write(
        dicom_series,
        tmp_path / "night",
        SeriesTime="003000",
        AcquisitionTime="003000",
        sequence=tracer(RadiopharmaceuticalStartTime="233000"),
    )
    values, said = suv_of(tmp_path / "night")
    assert values == pytest.approx([0.4] * 3)
    assert "the day before" in said


@pytest.mark.parametrize("block", [0x10, 0x11, 0x42])
def test_private_tags_are_found_by_their_creator(
    dicom_series: ModuleType, tmp_path: Path, block: int
) -> None:
    philips = "Philips PET Private Group"
    suv = add_private(0x7053, philips, block, e00=("DS", "0.0007"), e09=("DS", "3"))
    write(dicom_series, tmp_path / "suv", Units="CNTS", change=suv)
    assert suv_of(tmp_path / "suv")[0] == pytest.approx([0.7] * 3)
    activity = add_private(0x7053, philips, block, e00=("DS", "0"), e09=("DS", "3"))
    write(dicom_series, tmp_path / "bq", Units="CNTS", change=activity, slopes=2.0)
    assert suv_of(tmp_path / "bq")[0] == pytest.approx([2.4] * 3)
    scanned = add_private(0x0009, "GEMS_PETD_01", block, e0d=("DT", "20240131110000.00"))
    late = {"SeriesTime": "150000", "AcquisitionTime": "110300"}
    write(dicom_series, tmp_path / "ge", change=scanned, **late)
    values, said = suv_of(tmp_path / "ge")
    assert values == pytest.approx([0.4] * 3)
    assert "GE's scan time" in said


def test_private_tags_of_somebody_else_are_not_taken(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    change = add_private(0x7053, "SOMEBODY", e00=("DS", "0.0007"))
    write(dicom_series, tmp_path, Units="CNTS", change=change)
    with pytest.raises(InputError, match=r"Philips' scale factors .* are missing"):
        suv_of(tmp_path)


def test_the_earliest_bed_of_a_rewritten_siemens_series_counts(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    def beds(index: int, dataset: Dataset) -> None:
        # The last slice was scanned first, at 11:02: 2 min after the start of the scan.
        dataset.AcquisitionTime = ["110600", "110400", "110200"][index]
        dataset.FrameReferenceTime = [360e3, 240e3, 120e3][index]
        dataset.ActualFrameDuration = "2"  # ms: its mean is its middle, 1 ms

    write(dicom_series, tmp_path, change=beds, Manufacturer="SIEMENS", SeriesTime="150000")
    values, said = suv_of(tmp_path)
    assert values == pytest.approx([0.4] * 3, rel=1e-6)
    assert "Frame Reference Time" in said


@pytest.mark.parametrize(
    ("series_zone", "injected"),
    [
        (None, "20240131100000.00+0500"),  # the zone of the series is that of the injection
        ("+0100", "20240131090000+0000"),
        ("-0200", "20240131100000"),
    ],
)
def test_zones_of_the_injection(
    dicom_series: ModuleType, tmp_path: Path, series_zone: str | None, injected: str
) -> None:
    write(
        dicom_series,
        tmp_path,
        TimezoneOffsetFromUTC=series_zone,
        sequence=tracer(RadiopharmaceuticalStartDateTime=injected),
    )
    assert suv_of(tmp_path)[0] == pytest.approx([0.4] * 3)


def differ(keyword: str, values: list[str]) -> Callable[[int, Dataset], None]:
    return lambda index, dataset: setattr(dataset, keyword, values[index])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"Units": None}, "Units is missing"),
        ({"PatientWeight": None}, "Patient's Weight is missing"),
        ({"PatientWeight": "0"}, "Patient's Weight is 0"),
        ({"sequence": Sequence()}, "Radionuclide Total Dose is missing"),
        ({"sequence": tracer(RadionuclideTotalDose="370")}, "looks like MBq"),
        ({"sequence": Sequence([*tracer(), *tracer()])}, "lists several"),
        ({"change": differ("PatientWeight", ["74", "74", "47"])}, "Patient's Weight differs"),
        (
            {"change": differ("DecayCorrection", ["START", "ADMIN", "START"])},
            "Decay Corr.* differs",
        ),
        ({"change": differ("SeriesTime", ["110000", "110000", "120000"])}, "Series Date and Time"),
        ({"CorrectedImage": None}, "Corrected Image is missing"),
        ({"Units": "GML", "SUVType": "LBM"}, "SUV Type is LBM"),
        (
            {"change": add_private(0x0009, "GEMS_PETD_01", e0d=("LO", "yesterday"))},
            r"\(0009,xx0D\) of GEMS_PETD_01 of .* cannot be read",
        ),
    ],
)
def test_a_series_without_sound_tags_is_refused_in_one_sentence(
    dicom_series: ModuleType, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    write(dicom_series, tmp_path, **given)
    with pytest.raises(InputError, match=said) as caught:
        read_volume(tmp_path, Role.PET, Unit.SUV)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_an_uncorrected_pet_has_no_suv(dicom_series: ModuleType, tmp_path: Path) -> None:
    write(dicom_series, tmp_path, CorrectedImage=["DECY", "NORM"])
    with pytest.raises(InputError, match="no ATTN"):
        read_volume(tmp_path, Role.NAC_PET, Unit.SUV)
    assert read_volume(tmp_path, Role.NAC_PET).unit == Unit.BQ_PER_ML


@pytest.mark.pack
def test_a_real_series_in_suv_is_taken_as_it_is(data_pack: Path) -> None:
    folder = data_pack / "dicom" / "STS_014" / "PET" / "image"
    plain, suv = read_volume(folder, Role.PET), read_volume(folder, Role.PET, Unit.SUV)
    np.testing.assert_array_equal(suv.array, plain.array)
    assert plain.unit == suv.unit == Unit.SUV
    assert reading_notes(suv) == ()


@pytest.mark.pack
def test_a_real_series_whose_injection_is_dated_after_it_is_refused_by_its_date(
    data_pack: Path,
) -> None:
    """Its dates were moved by one day apart when it was made anonymous."""
    files = sorted((data_pack / "dicom" / "STS_014" / "PET" / "image").glob("*.dcm"))
    tags = suv_tags_of(files)
    assert (tags.weight_kg, tags.half_life_s, tags.dose_bq) == (91.0, 6588.0, 435481856.0)
    activity = replace(tags, units="BQML")
    assert suv_scale(activity).factor == pytest.approx(91000 / 435481856)  # ADMIN needs no time
    with pytest.raises(InputError, match="Start DateTime is after the scan"):
        suv_scale(replace(activity, decay_correction="START"))
