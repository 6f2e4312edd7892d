"""Pictures of the benchmarks: a volume's three middle planes, one column of axes."""

from __future__ import annotations

from typing import Any

from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.volume import Volume


def draw_planes(column: Any, volume: Volume, colours: str, limits: tuple[float, float]) -> None:
    """Axial, coronal and sagittal into three axes; left of the patient on the right, head up."""
    array = to_lps(volume).volume.array
    z, y, x = (n // 2 for n in array.shape)
    planes = (array[z], array[::-1, y], array[::-1, :, x])
    for axes, plane in zip(column, planes, strict=True):
        axes.imshow(plane, cmap=colours, vmin=limits[0], vmax=limits[1])
        axes.axis("off")
