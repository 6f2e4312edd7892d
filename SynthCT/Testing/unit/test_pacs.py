"""Sending to a PACS: what breaks loses nothing, and a second try sends the rest."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CTImageStorage, ParametricMapStorage

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import Cancelled, InputError, OutputError
from SynthCTLib.export.pacs import Pacs, PacsOptions, send
from SynthCTLib.export.parcel import SENT, is_untouched
from SynthCTLib.progress import Progress

QUICK = PacsOptions(timeout_s=5.0)
SLICES = 16


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Archive:
    """A PACS in this process: what it has, and how it behaves."""

    title: str = "ARCHIVE"
    takes: tuple[str, ...] = (CTImageStorage, ParametricMapStorage)
    answer: Callable[[int, evt.Event], int] = lambda number, event: 0
    stored: list[str] = field(default_factory=list)
    callers: set[str] = field(default_factory=set)
    number: int = 0

    def store(self, event: evt.Event) -> int:
        self.number += 1
        self.callers.add(event.assoc.requestor.ae_title)
        status = self.answer(self.number, event)
        if status == 0:
            self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return status

    @contextmanager
    def running(self) -> Iterator[Pacs]:
        entity = AE(ae_title=self.title)
        entity.require_called_aet = True
        entity.network_timeout = 5
        entity.supported_contexts = [build_context(kind) for kind in self.takes]
        port = free_port()
        server = entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)]
        )
        try:
            yield Pacs(self.title, "127.0.0.1", port)
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def job(finished_job: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = finished_job.make_job(tmp_path_factory.mktemp("job") / "job")
    return made


@pytest.fixture(scope="module")
def exported(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "ct"
    assert export(job, "dicom", folder) == 0
    return folder


@pytest.fixture
def parcel(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "ct"))


def export(job: Path, form: str, folder: Path, *more: object) -> int:
    arguments = ["export", job, "--format", form, "-o", folder, "--quiet", *more]
    return run_command([str(a) for a in arguments])


def uids(folder: Path) -> set[str]:
    return {str(pydicom.dcmread(p).SOPInstanceUID) for p in folder.glob("*.dcm")}


def test_everything_arrives_once(parcel: Path) -> None:
    archive = Archive()
    with archive.running() as pacs:
        first = send(parcel, pacs, Progress(), QUICK)
        again = send(parcel, pacs, Progress(), QUICK)
    assert (first.sent, first.had_already) == (SLICES, 0)
    assert (again.sent, again.had_already) == (0, SLICES)
    assert set(archive.stored) == uids(parcel)
    assert len(archive.stored) == SLICES
    assert is_untouched(parcel)


def test_each_pacs_has_its_own_account(parcel: Path) -> None:
    one, other = Archive(), Archive(title="OTHER")
    with one.running() as first, other.running() as second:
        send(parcel, first, Progress(), QUICK)
        assert send(parcel, second, Progress(), QUICK).sent == SLICES
    assert set(other.stored) == uids(parcel)


def test_a_broken_association_is_taken_up_where_it_broke(parcel: Path) -> None:
    def break_off(number: int, event: evt.Event) -> int:
        if number == 4:
            event.assoc.abort()
        return 0

    archive = Archive(answer=break_off)
    with archive.running() as pacs:
        with pytest.raises(OutputError, match="broke off") as failure:
            send(parcel, pacs, Progress(), QUICK)
        assert "the same command sends them again" in str(failure.value)
        assert is_untouched(parcel)
        known = set(json.loads((parcel / SENT).read_text())[str(pacs)])
        assert len(known) == 3
        done = send(parcel, pacs, Progress(), QUICK)
    assert done.had_already == 3
    assert done.sent == SLICES - 3
    assert set(archive.stored) == uids(parcel)


def test_a_refused_object_does_not_hold_back_the_others(parcel: Path) -> None:
    archive = Archive(answer=lambda number, event: 0xA700 if number == 2 else 0)
    with archive.running() as pacs:
        with pytest.raises(OutputError, match="0xA700") as failure:
            send(parcel, pacs, Progress(), QUICK)
        assert f"has {SLICES - 1} of {SLICES}" in str(failure.value)
        assert send(parcel, pacs, Progress(), QUICK).sent == 1
    assert set(archive.stored) == uids(parcel)


def test_warnings_of_the_pacs_count_as_stored(parcel: Path) -> None:
    with Archive(answer=lambda number, event: 0xB000).running() as pacs:
        assert send(parcel, pacs, Progress(), QUICK).sent == SLICES


def test_a_pacs_that_takes_no_such_objects_is_said(parcel: Path) -> None:
    archive = Archive(takes=(ParametricMapStorage,))
    with archive.running() as pacs, pytest.raises(OutputError, match="are not stored"):
        send(parcel, pacs, Progress(), QUICK)
    assert not (parcel / SENT).exists()


def test_a_wrong_title_is_refused_and_said(parcel: Path) -> None:
    with Archive().running() as pacs:
        wrong = Pacs("WRONG", pacs.host, pacs.port)
        with pytest.raises(OutputError, match="refused the association"):
            send(parcel, wrong, Progress(), QUICK)


def test_nobody_there_is_said(parcel: Path) -> None:
    with pytest.raises(OutputError, match="does not answer"):
        send(parcel, Pacs("ANY", "127.0.0.1", free_port()), Progress(), QUICK)
    assert is_untouched(parcel)


def test_a_stop_between_two_objects_keeps_account(parcel: Path) -> None:
    archive = Archive()
    progress = Progress(is_cancelled=lambda: len(archive.stored) >= 5)
    with archive.running() as pacs:
        with pytest.raises(Cancelled, match="11 objects are not sent"):
            send(parcel, pacs, progress, QUICK)
        assert send(parcel, pacs, Progress(), QUICK).sent == SLICES - 5
    assert len(archive.stored) == SLICES


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM files"):
        send(tmp_path, Pacs("A", "localhost", 104), Progress())


def test_a_damaged_account_means_that_all_is_sent_again(parcel: Path) -> None:
    (parcel / SENT).write_text("[1, 2")
    with Archive().running() as pacs:
        assert send(parcel, pacs, Progress(), QUICK).sent == SLICES


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("ORTHANC@localhost:4242", ("ORTHANC", "localhost", 4242)),
        ("MY PACS@10.0.0.1:104", ("MY PACS", "10.0.0.1", 104)),
        ("A@[::1]:11112", ("A", "::1", 11112)),
    ],
)
def test_addresses_are_parsed(address: str, parts: tuple[str, str, int]) -> None:
    pacs = Pacs.parse(address)
    assert (pacs.title, pacs.host, pacs.port) == parts
    assert str(pacs) == address


@pytest.mark.parametrize(
    "address",
    ["", "ORTHANC", "localhost:4242", "@localhost:4242", "A@host", "A@host:0", "A@host:65536",
     "A@host:port", "SEVENTEEN_LETTERS@host:104", "A@::1:104", " A@host:104", "A@ho st:104"],
)  # fmt: skip
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="AET@HOST:PORT"):
        Pacs.parse(address)


@pytest.mark.parametrize("wrong", [{"calling_title": ""}, {"timeout_s": 0.0}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        PacsOptions(**wrong)


# --- the command ---------------------------------------------------------------------------


def test_command_sends_the_same_objects_at_the_second_try(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, port = tmp_path / "out", free_port()
    address = f"ARCHIVE@127.0.0.1:{port}"
    assert export(job, "dicom", folder, "--to-pacs", address) == 2
    assert "does not answer" in capsys.readouterr().err
    before = uids(folder)
    assert len(before) == SLICES
    archive = Archive()
    with archive.running() as pacs:
        assert export(job, "dicom", folder, "--to-pacs", str(pacs)) == 0
    assert set(archive.stored) == before == uids(folder)
    # another request must not send what lies there from this one
    with archive.running() as pacs:
        more = ("--to-pacs", str(pacs), "--placeholders")
        assert export(job, "dicom", folder, *more) == 2
        assert "--overwrite" in capsys.readouterr().err
        next(folder.glob("*.dcm")).write_bytes(b"altered")
        assert export(job, "dicom", folder, "--to-pacs", str(pacs)) == 2
        assert export(job, "dicom", folder, "--to-pacs", str(pacs), "--overwrite") == 0
    assert len(archive.stored) == 2 * SLICES


def test_the_pacs_is_told_the_title_that_it_knows(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = Archive()
    with archive.running() as pacs:
        more = ("--to-pacs", str(pacs), "--calling-aet")
        assert export(job, "dicom-pm", tmp_path / "out", *more, "MU_STATION") == 0
        assert export(job, "dicom-pm", tmp_path / "no", *more, "A_TITLE_OF_TWENTY_ONE") == 2
    assert archive.callers == {"MU_STATION"}
    assert "1 to 16 characters" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_only_dicom_goes_to_a_pacs(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(job, "nifti", tmp_path / "out", "--to-pacs", "A@localhost:104") == 2
    assert "takes DICOM" in capsys.readouterr().err


# --- a real PACS ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthanc(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]
) -> Iterator[tuple[Pacs, str]]:
    """An Orthanc of its own, and the address of its web interface."""
    executable = program("Orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    dicom, web = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": web,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([executable, folder / "orthanc.json"], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{web}"
    try:
        for _ in range(300):
            try:
                fetch(f"{address}/system")
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield Pacs("ORTHANC", "127.0.0.1", dicom), address
    finally:
        server.terminate()
        server.wait(30)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
    return content


def test_orthanc_takes_ct_and_parametric_map_unchanged(
    job: Path, tmp_path: Path, orthanc: tuple[Pacs, str]
) -> None:
    pacs, address = orthanc
    for form in ("dicom", "dicom-pm", "dicom-int"):
        assert export(job, form, tmp_path / form, "--to-pacs", str(pacs)) == 0
    sent = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, tmp_path.glob("*/*.dcm"))}
    assert len(sent) == 2 * SLICES + 1
    assert len(json.loads(fetch(f"{address}/studies"))) == 1
    assert len(json.loads(fetch(f"{address}/series"))) == 3
    held = json.loads(fetch(f"{address}/instances"))
    assert len(held) == len(sent)
    for identifier in held:
        (tmp_path / "again.dcm").write_bytes(fetch(f"{address}/instances/{identifier}/file"))
        again = pydicom.dcmread(tmp_path / "again.dcm")
        original = sent[str(again.SOPInstanceUID)]
        np.testing.assert_array_equal(again.pixel_array, original.pixel_array)
        assert again.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert again.SeriesDescription == original.SeriesDescription
