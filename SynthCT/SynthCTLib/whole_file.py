"""Files that appear complete under their name, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


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
