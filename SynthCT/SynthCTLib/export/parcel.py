"""The folder of an export: complete under its name, or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.volume import sha256_of
from SynthCTLib.whole_file import at_its_place, reason_of

MANIFEST = "export.json"
SENT = "sent.json"


@contextmanager
def packing(folder: Path, facts: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, which gets its name when the block ends without an exception.

    ``export.json`` is added: ``facts`` and the SHA-256 of every file. Raises InputError when the
    name is taken by anything but an empty folder or, with ``overwrite``, an earlier export;
    OutputError when it cannot be written.
    """
    _require_free(folder, overwrite)
    staged = folder.with_name(f".{folder.name}.{uuid4().hex[:12]}")
    try:
        with _saying(folder):
            staged.mkdir(parents=True)
        try:
            yield staged
        except OutputError as error:
            raise at_its_place(error, staged, folder) from error
        with _saying(folder):
            hashes = {p.name: sha256_of(p) for p in sorted(staged.iterdir())}
            text = json.dumps({**facts, "files": hashes}, indent=2, default=str) + "\n"
            (staged / MANIFEST).write_text(text, encoding="utf-8")
            _put_in_place(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """What ``export.json`` of a folder says, None where there is no readable one."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_manifest = isinstance(content, dict) and isinstance(content.get("files"), dict)
    return content if is_manifest else None


def is_untouched(folder: Path) -> bool:
    """Whether every file of an export is there as it was written."""
    manifest = manifest_of(folder)
    if manifest is None:
        return False
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == digest
        for name, digest in manifest["files"].items()
    )


def _require_free(folder: Path, overwrite: bool) -> None:
    with _saying(folder):
        if not folder.exists():
            return
        if not folder.is_dir():
            raise InputError(f"{folder} is a file: name a folder for the export.")
        there = {entry.name for entry in folder.iterdir()}
    if not there:
        return
    manifest = manifest_of(folder)
    if manifest is None or there - {MANIFEST, SENT, *manifest["files"]}:
        raise InputError(f"{folder} holds other files: choose a new folder for the export.")
    if not overwrite:
        raise InputError(
            f"{folder} holds an earlier export: choose another folder or add --overwrite."
        )


def _put_in_place(staged: Path, folder: Path) -> None:
    earlier = None
    if folder.exists():
        earlier = staged.with_name(staged.name + ".old")
        folder.rename(earlier)
    try:
        staged.rename(folder)
    except OSError:
        if earlier is not None:
            earlier.rename(folder)
        raise
    if earlier is not None:
        with suppress(OSError):
            shutil.rmtree(earlier)


@contextmanager
def _saying(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written ({reason_of(error)}).") from error
