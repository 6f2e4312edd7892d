"""A folder in the layout of BIDS as a manifest.

sub-01/[ses-1/]anat/sub-01_T1w.nii.gz            the MR
sub-01/[ses-1/]ct/sub-01_ct.nii.gz               the reference CT
derivatives/METHOD/sub-01/**/*desc-synth*_ct.nii.gz   a synthetic CT for each method
participants.tsv                                 strata, by participant_id
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from SynthCTLib.errors import InputError
from SynthCTLib.workflow.cohort.manifest import Entry
from SynthCTLib.workflow.request import Slot

_ENDINGS = (".nii", ".nii.gz")


def read_bids(root: Path, strata: Sequence[str] = ()) -> tuple[Entry, ...]:
    """One entry for each subject, session and method of the derivatives.

    Where there are no derivatives, one for each subject and session, of the MR and reference CT
    (for ``synthct run``). A synthetic CT whose subject has no reference CT keeps its row, and is
    told among the failures. Raises InputError where a folder holds two candidates, and for a
    stratum that participants.tsv does not have.
    """
    sessions = _sessions(root)
    if not sessions:
        raise InputError(
            f"The folder {root} holds no sub-* folder: give a BIDS folder or a CSV manifest."
        )
    people = _participants(root, strata)
    made: list[tuple[str | None, str, str, Path | None]] = [
        (pipeline.name, subject, session, synthetic)
        for pipeline in sorted((root / "derivatives").glob("*/"))
        for subject, session in sessions
        if (synthetic := _one(pipeline / subject / session, "*desc-synth*_ct", "synthetic CT"))
    ]
    entries = []
    for method, subject, session, synthetic in made or [(None, *s, None) for s in sessions]:
        folder = root / subject / session
        files = {
            Slot.MR: _one(folder, "*_T1w", "T1-weighted MR"),
            Slot.REFERENCE_CT: _one(folder, "*_ct", "reference CT"),
            Slot.SYNTHETIC_CT: synthetic,
        }
        entries.append(
            Entry(
                f"{subject}_{session}" if session else subject,
                method,
                {slot: path for slot, path in files.items() if path is not None},
                strata=people.get(subject, {}),
            )
        )
    return tuple(entries)


def _sessions(root: Path) -> list[tuple[str, str]]:
    """Subject and session; the session is "" where there are none."""
    found = []
    for subject in sorted(p for p in root.glob("sub-*") if p.is_dir()):
        sessions = sorted(p.name for p in subject.glob("ses-*") if p.is_dir())
        found += [(subject.name, session) for session in sessions or [""]]
    return found


def _one(folder: Path, pattern: str, what: str) -> Path | None:
    found = sorted(p for end in _ENDINGS for p in folder.rglob(pattern + end))
    if len(found) > 1:
        raise InputError(
            f"The folder {folder} holds {len(found)} images that may be the {what} "
            f"({found[0].name}, {found[1].name}): give a CSV manifest."
        )
    return found[0].absolute() if found else None


def _participants(root: Path, strata: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    if not strata:
        return {}
    path = root / "participants.tsv"
    try:
        rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines(), delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: strata need it.") from error
    for name in ("participant_id", *strata):
        if not rows or name not in rows[0]:
            raise InputError(f"{path} has no column '{name}': add it, or leave out --strata.")
    return {
        row["participant_id"]: {
            name: row[name] for name in strata if row[name] not in (None, "", "n/a")
        }
        for row in rows
    }
