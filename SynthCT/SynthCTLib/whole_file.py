"""Files that appear complete under their names, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from SynthCTLib.errors import OutputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, with its suffixes, to be written inside the block.

    When the block ends well it is renamed to ``path``, replacing what was there; when it raises,
    nothing is left and ``path`` is as it was. Raises OSError where the folder does not let it.
    """
    part = path.with_name(f".{uuid4().hex[:12]}{''.join(path.suffixes[-2:])}")
    try:
        part.open("xb").close()
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):  # renamed, or in a folder that may not be entered
            part.unlink()


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """An empty folder inside ``folder``, which is made, to write files into inside the block.

    When the block ends well they move to ``folder`` together, replacing files of their names; when
    it raises, ``folder`` is as it was. Raises OSError where the folder does not let it.
    """
    is_new = not folder.exists()
    staged = folder / f".{uuid4().hex[:12]}"
    try:
        staged.mkdir(parents=True)
        yield staged
        for file in sorted(staged.iterdir()):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # something was written into it
                folder.rmdir()


def reason_of(error: OSError) -> str:
    """Why a file could not be written and what to do, for brackets in a sentence."""
    if error.errno is None:  # numpy's and pydicom's when a disk fills up
        return "only a part could be written: free some space or choose another disk"
    advice = {
        errno.ENOSPC: "free some space or choose another disk",
        errno.ENOENT: "create its folder first",
        errno.ENOTDIR: "choose a folder",
        errno.EACCES: "choose a folder that you may write to",
        errno.EPERM: "choose a folder that you may write to",
        errno.EROFS: "choose a folder that you may write to",
    }
    return f"{error.strerror}: {advice.get(error.errno, 'choose another folder')}"


def at_its_place(error: OutputError, staged: Path, folder: Path) -> OutputError:
    """An error that names a file in ``staged``, told of the folder that it was to move to."""
    return OutputError(str(error).replace(str(staged), str(folder)))
