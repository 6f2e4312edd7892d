"""Who is in a cohort: a CSV file with a row for each subject and method, or a BIDS folder."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from SynthCTLib.errors import InputError
from SynthCTLib.workflow.request import MASK_NAME, SUBJECT_NAME, Slot

DEFAULT_METHOD = "synthetic"
_FILES = {slot.value: slot for slot in Slot}
_MASK = "mask."
_OTHER = ("subject", "method", "fold", "transform")
_IMAGE = re.compile(r"\.nii(\.gz)?$")


@dataclass(frozen=True)
class Entry:
    """One subject with one method: its files, its fold, its strata.

    ``method`` of a synthesis is the name of the model, None for the default one.
    """

    subject: str
    method: str | None
    files: Mapping[Slot, Path]
    masks: Mapping[str, Path] = field(default_factory=dict)
    transform: Path | None = None
    fold: str | None = None
    strata: Mapping[str, str] = field(default_factory=dict)


def read_manifest(path: Path, strata: Sequence[str] = ()) -> tuple[Entry, ...]:
    """The entries of a manifest: a CSV file, or a folder in the BIDS layout (:mod:`.bids`).

    Columns of the CSV: ``subject``; files by their place (``reference_ct``, ``synthetic_ct``,
    ``mr``, ``ct``, ``nac_pet``), relative to the manifest or absolute; ``method``, ``fold``,
    ``transform`` and ``mask.NAME`` where wanted; and the columns named by ``strata``. An empty
    field is an absent one. Raises InputError for a file that cannot be read, an unknown or absent
    column, a row without a subject, and a pair of subject and method that comes twice.
    """
    if path.is_dir():
        from SynthCTLib.workflow.cohort.bids import read_bids

        entries = read_bids(path, strata)
    else:
        entries = tuple(_rows(path, strata))
    if not entries:
        raise InputError(f"The manifest {path} names no subject: give at least one.")
    seen: set[tuple[str, str | None]] = set()
    for entry in entries:
        if (entry.subject, entry.method) in seen:
            method = f" with the method {entry.method}" if entry.method else ""
            raise InputError(
                f"The manifest {path} names the subject {entry.subject} twice{method}: name each "
                "pair of subject and method once."
            )
        seen.add((entry.subject, entry.method))
    return entries


def _rows(path: Path, strata: Sequence[str]) -> Iterator[Entry]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The manifest {path} cannot be read: give a CSV file in UTF-8."
        ) from error
    delimiter = "\t" if path.suffix == ".tsv" else ","
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, restkey="", strict=True)
    try:
        columns = [c.strip() for c in reader.fieldnames or ()]
        reader.fieldnames = columns
        _check_columns(path, columns, strata)
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"The manifest {path} is no CSV ({error}): check its quotes.") from error
    for number, row in enumerate(rows, 2):
        where = f"Line {number} of the manifest {path}"
        if "" in row or None in row.values():
            raise InputError(f"{where} has another number of fields than its heading: correct it.")
        given = {key: value.strip() for key, value in row.items() if value.strip()}
        if given:
            yield _entry(where, path.parent, given, strata)


def _check_columns(path: Path, columns: Sequence[str], strata: Sequence[str]) -> None:
    if "subject" not in columns:
        raise InputError(
            f"The manifest {path} has no column 'subject': begin it with a line such as "
            "subject,method,reference_ct,synthetic_ct."
        )
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"The manifest {path} has two columns '{column}': keep one.")
        known = column in _OTHER or column in _FILES or column in strata
        if not known and not re.match(
            MASK_NAME, column.removeprefix(_MASK) * column.startswith(_MASK)
        ):
            raise InputError(
                f"The manifest {path} has a column '{column}' that SynthCT does not know: name it "
                f"with --strata {column}, or leave it out."
            )
    for name in strata:
        if name not in columns:
            raise InputError(
                f"The manifest {path} has no column '{name}', which --strata names: add it."
            )


def _entry(where: str, folder: Path, given: Mapping[str, str], strata: Sequence[str]) -> Entry:
    subject = given.get("subject", "")
    for name, text in (("subject", subject), ("method", given.get("method", "x"))):
        if not re.match(SUBJECT_NAME, text):
            raise InputError(
                f"{where} has the {name} '{text}': give one of letters, digits, '_', '-' and '.'."
            )

    def absolute(name: str) -> Path:
        return (folder / Path(name).expanduser()).absolute()

    return Entry(
        subject,
        given.get("method"),
        {slot: absolute(given[name]) for name, slot in _FILES.items() if name in given},
        {
            name.removeprefix(_MASK): absolute(value)
            for name, value in given.items()
            if name.startswith(_MASK)
        },
        absolute(given["transform"]) if "transform" in given else None,
        given.get("fold"),
        {name: given[name] for name in strata if name in given},
    )
