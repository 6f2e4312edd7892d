"""Which device computes."""

from __future__ import annotations

from SynthCTLib.errors import InputError, MissingPackage
from SynthCTLib.progress import Progress


def choose_device(wanted: str, progress: Progress) -> str:
    """A torch device name for ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.

    ``auto`` takes the first CUDA GPU where there is one, else the CPU. Raises InputError when the
    device that was named is not there: the CPU is never taken in its place. Without torch ``auto``
    is the CPU and a named GPU raises MissingPackage.
    """
    if wanted == "cpu":
        return "cpu"
    try:
        import torch
    except ModuleNotFoundError as error:
        if wanted == "auto":  # what does not need torch runs; a model that does says so
            return "cpu"
        raise MissingPackage(
            f"The device {wanted} needs the package torch, which is not installed: install it, in "
            "Slicer with the extension PyTorch, or use --device auto."
        ) from error
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("The device mps is not there: use --device cpu or auto.")
        progress.note("Computing on Apple's GPU (mps).")
        return "mps"
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
