"""Where to start: an exhaustive look at rotations and translations on coarse images.

Coarse images cannot always tell: of a limb, the best at 8 mm may lie 50 mm along the bone from the
best at 4 mm. Therefore several positions are found, and finer images choose among them.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.spatial.transform import Rotation

from SynthCTLib.progress import Progress
from SynthCTLib.registration.similarity import Points, Sampled, agreement, agreements

# With these steps a position within reach of the true one was among the first four of the grid
# in all of 20 simulated MR/CT heads at 8 mm; at 25 degrees it was not.
ROTATION_STEP_DEGREES = 20.0
TRANSLATION_STEP_MM = 20.0
POLISHED = 8
GRID_POINTS = 800
# A rotation by 1 / this radian moves the surface of a head by about 1 mm.
LEVER_MM = 80.0
POLISH_STEP_MM = 5.0
POLISH_EVALUATIONS = 200

Matrix = npt.NDArray[np.float64]
Parameters = npt.NDArray[np.float64]


class Scene:
    """Two coarse images, and the points of the fixed body at which they are compared.

    A position has six parameters: a rotation vector about the centre of the points, times
    ``LEVER_MM``, and the shift (mm) that remains once both bodies' centres coincide.
    """

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
        self._centre = points.mean(axis=0)
        self._moving_centre = moving_centre
        self._bins, inside = fixed.bins_at(points)
        self._points = points[inside] - self._centre
        self._few = slice(None, None, max(1, len(self._points) // GRID_POINTS))
        self._possible = min(1.0, overlap_possible)

    def matrix(self, parameters: Parameters) -> Matrix:
        """4x4, fixed to moving LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(parameters[:3] / LEVER_MM).as_matrix()
        matrix[:3, 3] = self._moving_centre + parameters[3:] - matrix[:3, :3] @ self._centre
        return matrix

    def score(self, parameters: Parameters) -> float:
        """Normalised mutual information, times the share of the possible overlap.

        Without the second factor limbs slide along their axis until little is left to disagree.
        """
        turned = Rotation.from_rotvec(parameters[:3] / LEVER_MM).apply(self._points)
        found = agreement(self._bins, self._moving, turned + self._moving_centre + parameters[3:])
        return found.value * min(1.0, found.overlap / self._possible)

    def scores(self, turn: Parameters, shifts: Points) -> Parameters:
        """Roughly the score of one rotation (three parameters) with each of some shifts (n, 3)."""
        turned = Rotation.from_rotvec(turn / LEVER_MM).apply(self._points[self._few])
        found = agreements(
            self._bins[self._few], self._moving, turned + self._moving_centre, shifts
        )
        return np.array([f.value * min(1.0, f.overlap / self._possible) for f in found])

    def as_supplied(self) -> Parameters:
        """The position in which the images lie in space as they were given."""
        return np.concatenate([np.zeros(3), self._centre - self._moving_centre])


def find_starts(
    scene: Scene, search_degrees: float, search_mm: float, progress: Progress
) -> list[Matrix]:
    """Rigid 4x4 matrices, fixed to moving LPS mm: good positions, best first.

    Where one within reach is right, one of them is within some voxels of it.
    """
    angles = np.radians(_steps(search_degrees, ROTATION_STEP_DEGREES))
    shifts = np.array(list(itertools.product(_steps(search_mm, TRANSLATION_STEP_MM), repeat=3)))
    turns = [
        Rotation.from_euler("xyz", a).as_rotvec() * LEVER_MM
        for a in itertools.product(angles, repeat=3)
    ]
    candidates: list[tuple[float, Parameters]] = []
    for done, turn in enumerate(turns):
        progress.update(0.3 * done / len(turns))
        for score, shift in zip(scene.scores(turn, shifts), shifts, strict=True):
            candidates.append((score, np.concatenate([turn, shift])))
    found: list[tuple[float, Parameters]] = []
    chosen = [scene.as_supplied(), *_distinct(candidates)]
    for done, parameters in enumerate(chosen):
        progress.update(0.3 + 0.7 * done / len(chosen))
        polished = optimize.minimize(
            lambda p: -scene.score(p),
            parameters,
            method="Powell",
            options={
                "xtol": 0.05,
                "ftol": 1e-2,
                "maxfev": POLISH_EVALUATIONS,
                "direc": np.eye(6) * POLISH_STEP_MM,
            },
        )
        found.append((-polished.fun, polished.x))
    return [scene.matrix(parameters) for _, parameters in sorted(found, key=lambda f: -f[0])]


def _steps(reach: float, step: float) -> list[float]:
    """Evenly spaced values around 0, the outermost less than a step short of ``reach``."""
    count = int(reach / step)
    return [step * i for i in range(-count, count + 1)]


def _distinct(candidates: list[tuple[float, Parameters]]) -> list[Parameters]:
    """The best few, none next to a better one."""
    kept: list[Parameters] = []
    for _, parameters in sorted(candidates, key=lambda c: -c[0]):
        if all(np.linalg.norm(parameters - k) > 1.5 * TRANSLATION_STEP_MM for k in kept):
            kept.append(parameters)
        if len(kept) == POLISHED:
            break
    return kept
