"""Which device computes."""

from __future__ import annotations

from SynthCTLib.errors import InputError
from SynthCTLib.progress import Progress


def choose_device(wanted: str, progress: Progress) -> str:
    """A torch device name for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` takes the first GPU where there is one. Raises InputError when the device that was
    named is not there: the CPU is never taken in its place.
    """
    if wanted == "cpu":
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda:0" if count else "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if index >= count:
        raise InputError(
            f"The device {wanted} is not there ({count} GPUs found): use --device cpu or auto."
        )
    progress.note(f"Computing on {torch.cuda.get_device_name(index)}.")
    return f"cuda:{index}"
