"""Sending exported DICOM objects to a PACS (C-STORE), so that nothing is lost when it fails.

The files stay where they were exported. ``sent.json`` beside them lists what each PACS has taken; a
second try sends the rest.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthCTLib.errors import Cancelled, InputError, OutputError
from SynthCTLib.export.parcel import SENT
from SynthCTLib.progress import Progress

CALLING_TITLE = "SYNTHCT"
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@\s]+):(?P<port>\d{1,5})")
# PS3.4 table B.2-1: warnings are B000 (coercion), B006, B007; the object is stored.
_STORED_WITH_WARNING = (0xB000, 0xB006, 0xB007)


@dataclass(frozen=True)
class Pacs:
    """A DICOM node: application entity title, host and port."""

    title: str
    host: str
    port: int

    @staticmethod
    def parse(address: str) -> Pacs:
        """A node from ``AET@HOST:PORT``; an IPv6 host in brackets. Raises InputError."""
        title, _, place = address.rpartition("@")
        found = _ADDRESS.fullmatch(place)
        if not _TITLE.fullmatch(title) or found is None or not 0 < int(found["port"]) < 65536:
            raise InputError(
                f"{address!r} is no address of a PACS: give AET@HOST:PORT, such as "
                "ORTHANC@localhost:4242 (a title has at most 16 characters)."
            )
        return Pacs(title, found["host"].strip("[]"), int(found["port"]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"


@dataclass(frozen=True)
class PacsOptions:
    """How to talk to a PACS: our own title, and how long to wait for it, seconds."""

    calling_title: str = CALLING_TITLE
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not _TITLE.fullmatch(self.calling_title):
            raise InputError(
                f"{self.calling_title!r} is no application entity title: give 1 to 16 characters."
            )
        if not self.timeout_s > 0:
            raise InputError(f"A PACS cannot answer within {self.timeout_s:g} s: wait longer.")


@dataclass(frozen=True)
class Sending:
    """What was sent now, and what the PACS had from an earlier try."""

    sent: int
    had_already: int


def send(
    folder: Path, pacs: Pacs, progress: Progress, options: PacsOptions | None = None
) -> Sending:
    """Send the DICOM files of an export; those that this PACS has taken before are left out.

    What was taken is written down after each file, so that a broken association loses nothing. A
    file that the PACS refuses does not keep the others back. Raises OutputError, which says how
    many are stored and that the same command sends the rest, when not all of them are in the end;
    InputError when the folder holds no DICOM files.
    """
    from pydicom import dcmread

    options = options or PacsOptions()
    files = sorted(folder.glob("*.dcm"))
    if not files:
        raise InputError(f"{folder} holds no DICOM files to send: export as DICOM first.")
    journal = _Journal(folder / SENT, str(pacs))
    waiting = []
    for path in files:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        if str(header.SOPInstanceUID) not in journal.taken:
            waiting.append(path)
    had_already = len(files) - len(waiting)
    if not waiting:
        return Sending(0, had_already)
    refused = _send(waiting, pacs, options, journal, progress)
    if refused:
        raise OutputError(
            f"{pacs} has {len(files) - len(refused)} of {len(files)} objects and refused "
            f"{len(refused)} ({refused[0]}): they lie in {folder}; the same command tries again."
        )
    return Sending(len(waiting), had_already)


def _send(
    files: Sequence[Path], pacs: Pacs, options: PacsOptions, journal: _Journal, progress: Progress
) -> list[str]:
    """Send over one association; returns why files were refused, one reason each."""
    from pydicom import dcmread
    from pynetdicom import AE

    entity = AE(ae_title=options.calling_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = options.timeout_s
    entity.connection_timeout = options.timeout_s
    kinds = {
        (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
        for meta in (
            dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta for path in files
        )
    }
    for sop_class, syntax in sorted(kinds):
        entity.add_requested_context(sop_class, syntax)
    _require_answer(pacs, options, journal, len(files))
    association = entity.associate(pacs.host, pacs.port, ae_title=pacs.title)
    if not association.is_established:
        if association.is_rejected:
            raise _stopped(pacs, journal, len(files), "refused the association: check both titles")
        raise _stopped(pacs, journal, len(files), "broke off before the first object")
    refused = []
    try:
        for number, path in enumerate(files):
            try:
                progress.update(number / len(files))
            except Cancelled:
                raise Cancelled(
                    f"Stopped on request: {len(files) - number} objects are not sent and lie in "
                    f"{path.parent}; the same command sends them."
                ) from None
            dataset = dcmread(path)
            try:
                status = association.send_c_store(dataset)
            except ValueError:  # no presentation context was accepted for this kind of object
                refused.append(f"it takes no {dataset.SOPClassUID.name}")
                continue
            except RuntimeError:  # the association is gone
                raise _stopped(pacs, journal, len(files) - number, "broke off") from None
            if "Status" not in status:
                raise _stopped(pacs, journal, len(files) - number, "broke off")
            if status.Status == 0 or status.Status in _STORED_WITH_WARNING:
                journal.take(str(dataset.SOPInstanceUID))
            else:
                refused.append(f"status 0x{status.Status:04X}")
        progress.update(1.0)
    finally:
        if association.is_established:
            association.release()
    return refused


def _require_answer(pacs: Pacs, options: PacsOptions, journal: _Journal, left: int) -> None:
    """Raise OutputError unless somebody listens; pynetdicom would not say why nobody does."""
    try:
        socket.create_connection((pacs.host, pacs.port), options.timeout_s).close()
    except OSError as error:
        reason = f"does not answer ({error.strerror or error}): check host, port and network"
        raise _stopped(pacs, journal, left, reason) from error


def _stopped(pacs: Pacs, journal: _Journal, left: int, why: str) -> OutputError:
    return OutputError(
        f"{pacs} {why}. {left} objects are not stored and lie in {journal.path.parent}: the same "
        "command sends them again."
    )


class _Journal:
    """``sent.json``: by PACS, the instance UIDs that it has taken."""

    def __init__(self, path: Path, pacs: str) -> None:
        self.path, self.pacs = path, pacs
        self.record = self._read()
        self.taken: set[str] = set(self.record.get(pacs, []))

    def take(self, uid: str) -> None:
        """Write down that the PACS has an object."""
        self.taken.add(uid)
        self.record[self.pacs] = sorted(self.taken)
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            part.write_text(json.dumps(self.record, indent=2) + "\n", encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}): free some space; the PACS "
                "keeps what it has."
            ) from error

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
