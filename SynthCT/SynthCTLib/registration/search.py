"""Where to start: an exhaustive look at rotations and translations on coarse images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.spatial.transform import Rotation

from SynthCTLib.progress import Progress
from SynthCTLib.registration.similarity import Points, Sampled, agreement

# Half of each is within reach of the refinement that follows (about 15 degrees and 20 mm at 8 mm).
ROTATION_STEP_DEGREES = 20.0
TRANSLATION_STEP_MM = 20.0
# A rotation by 1 / this radian moves the surface of a head by about 1 mm.
LEVER_MM = 80.0
FEWEST_POINTS = 800
MOST_POINTS = 4000
REFINED = 8
KEPT = 3
# Less overlap than this share of the smaller body counts against a candidate in proportion.
WANTED_OVERLAP = 0.5

Rigid = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """A rigid 4x4 matrix from fixed to moving LPS mm, and how well the images agree there."""

    matrix: Rigid
    score: float


class Scene:
    """Two coarse images, and the points of the fixed body by which they are compared."""

    def __init__(
        self,
        fixed: Sampled,
        moving: Sampled,
        points: Points,
        moving_centre: npt.NDArray[np.float64],
        overlap_possible: float,
    ) -> None:
        """``overlap_possible``: share of the fixed body that the moving body could cover."""
        self._moving = moving
        self.centre = points.mean(axis=0)
        self._offset = moving_centre - self.centre
        self._points = points - self.centre
        self._bins, inside = fixed.bins_at(points)
        self._points = self._points[inside]
        self._wanted = WANTED_OVERLAP * min(1.0, overlap_possible)

    def matrix(self, parameters: npt.NDArray[np.float64]) -> Rigid:
        """Three rotations (rotation vector times the lever, mm) and three translations (mm)."""
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(parameters[:3] / LEVER_MM).as_matrix()
        matrix[:3, 3] = self.centre + self._offset + parameters[3:] - matrix[:3, :3] @ self.centre
        return matrix

    def score(self, parameters: npt.NDArray[np.float64], every: int = 1) -> float:
        """Normalised mutual information, less where little overlaps."""
        matrix = self.matrix(parameters)
        points = self._points[::every] @ matrix[:3, :3].T + (
            self.centre + self._offset + parameters[3:]
        )
        found = agreement(self._bins[::every], self._moving, points)
        return found.value * min(1.0, found.overlap / self._wanted)


def steps(reach: float, step: float) -> npt.NDArray[np.float64]:
    """Evenly spaced values from 0 outward, the outermost less than a step short of ``reach``."""
    count = int(reach / step)
    return step * np.arange(-count, count + 1)


def starts(
    scene: Scene, search_degrees: float, search_mm: float, progress: Progress
) -> list[Start]:
    """The best few rigid positions, best first."""
    angles = np.radians(steps(search_degrees, ROTATION_STEP_DEGREES))
    shifts = steps(search_mm, TRANSLATION_STEP_MM)
    turns = [
        Rotation.from_euler("xyz", (x, y, z)).as_rotvec() * LEVER_MM
        for x in angles
        for y in angles
        for z in angles
    ]
    every = max(1, len(scene._points) // FEWEST_POINTS)
    candidates = []
    for done, turn in enumerate(turns):
        progress.update(0.5 * done / len(turns))
        for x in shifts:
            for y in shifts:
                for z in shifts:
                    parameters = np.array([*turn, x, y, z])
                    candidates.append((scene.score(parameters, every), parameters))
    candidates.sort(key=lambda c: -c[0])
    found = []
    for done, (_, parameters) in enumerate(_distinct(candidates)):
        progress.update(0.5 + 0.5 * done / REFINED)
        result = optimize.minimize(
            lambda p: -scene.score(p),
            parameters,
            method="Powell",
            options={
                "xtol": 0.02,
                "ftol": 1e-3,
                "maxfev": 400,
                "direc": np.eye(6) * TRANSLATION_STEP_MM / 4,
            },
        )
        found.append(Start(scene.matrix(result.x), float(-result.fun)))
    found.sort(key=lambda s: -s.score)
    return found[:KEPT]


def _distinct(
    candidates: list[tuple[float, npt.NDArray[np.float64]]],
) -> list[tuple[float, npt.NDArray[np.float64]]]:
    """The first few that are no neighbours of a better one."""
    kept: list[tuple[float, npt.NDArray[np.float64]]] = []
    for score, parameters in candidates:
        if all(np.linalg.norm(parameters - other) > 1.5 * TRANSLATION_STEP_MM for _, other in kept):
            kept.append((score, parameters))
        if len(kept) == REFINED:
            break
    return kept
