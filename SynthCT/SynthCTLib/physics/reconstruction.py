"""PET simulated from a known activity and µ-map, and reconstructed with any µ-map, or none.

A scan counts, on each line of response, s * exp(-integral of µ) * (A x) events: x the activity,
A the projector, s what makes the total. Poisson noise comes from a seed. The reconstruction is
maximum likelihood by expectation maximisation (Shepp and Vardi, IEEE Trans Med Imaging 1 (1982)
113), by ordered subsets of the angles (Hudson and Larkin, ibid. 13 (1994) 601):

    x <- x / (A' w) * A' (y / (A x)),    w = s * exp(-integral of µ)

With the µ-map of the scan this is an attenuation-corrected PET (AC), with w = s alone one without
correction (NAC), with another µ-map what its errors do. What the projector leaves out (scatter,
randoms, resolution) is in neither: the images are simulations.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.physics.projector import FWHM_IN_SIGMAS, Projector, TimeOfFlight
from SynthCTLib.volume import Role, Step, Unit, Volume


@dataclass(frozen=True)
class ScanOptions:
    """What is measured: angles, time of flight, events a slice (None: no noise), and the seed."""

    angles: int = 180
    time_of_flight: TimeOfFlight | None = None
    events_per_slice: float | None = 5e5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.angles < 1:
            raise InputError(f"A PET of {self.angles} angles is impossible: give at least one.")
        events = self.events_per_slice
        if events is not None and not (math.isfinite(events) and events > 0):
            raise InputError(f"{events:g} events a slice make no PET: give more than 0.")


@dataclass(frozen=True)
class ReconstructionOptions:
    """Iterations over all angles, each in so many ordered subsets (1: MLEM).

    ``smoothing_fwhm_mm`` is the width of the Gaussian that the image is smoothed by at the end
    (0: none; scanners use 4 to 6 mm).
    """

    iterations: int = 4
    subsets: int = 12
    smoothing_fwhm_mm: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.smoothing_fwhm_mm) and self.smoothing_fwhm_mm >= 0):
            raise InputError(
                f"A PET cannot be smoothed by {self.smoothing_fwhm_mm:g} mm: give 0 or more."
            )
        if self.iterations < 1 or self.subsets < 1:
            raise InputError(
                f"{self.iterations} iterations of {self.subsets} subsets reconstruct nothing: "
                "give at least one of each."
            )


@dataclass(frozen=True, eq=False)
class Scan:
    """A simulated scan: events (slice, angle, line[, time-of-flight bin]) and what they are of.

    ``events_per_value`` is s, the events that a line integral of 1 would give unattenuated.
    """

    events: torch.Tensor
    events_per_value: float
    projector: Projector
    activity: Volume
    options: ScanOptions


def simulated_scan(
    activity: Volume, mu: Volume, options: ScanOptions | None = None, device: str = "cpu"
) -> Scan:
    """The events that a PET counts of an activity (any unit) in a body with a µ-map (1/cm).

    Planes are those of the array's first axis: give volumes whose first axis runs along the
    patient (``imaging.grids.to_lps``). Raises InputError for two grids, another unit of µ, values
    that are negative or no numbers, and an activity that is 0 everywhere.
    """
    options = options or ScanOptions()
    _require_mu(mu, activity)
    if not (np.isfinite(activity.array).all() and (activity.array >= 0).all()):
        raise InputError("The activity has values below 0 or that are no numbers: set them to 0.")
    if not activity.array.any():
        raise InputError("The activity is 0 everywhere, so there is nothing to count.")
    _, rows, columns = activity.array.shape
    dx, dy, _ = activity.grid.spacing_mm
    projector = Projector((rows, columns), (dx, dy), options.angles, options.time_of_flight, device)
    expected = projector.forward(_tensor(activity)) * projector.attenuation(_tensor(mu))
    if options.events_per_slice is None:
        return Scan(expected, 1.0, projector, activity, options)
    scale = options.events_per_slice * len(expected) / float(expected.sum(dtype=torch.float64))
    generator = torch.Generator().manual_seed(options.seed)  # on the CPU: one seed, one noise
    events = torch.poisson((expected * scale).cpu(), generator=generator).to(expected.device)
    return Scan(events, scale, projector, activity, options)


def reconstructed(
    scan: Scan, mu: Volume | None, options: ReconstructionOptions | None = None
) -> Volume:
    """The PET of a scan, corrected for attenuation by a µ-map (1/cm), or by none (role NAC_PET).

    In the unit of the activity, float32, on its grid. Raises InputError when the µ-map is on
    another grid or in another unit, and when the angles do not divide into the subsets.
    """
    options = options or ReconstructionOptions()
    projector = scan.projector
    if mu is not None:
        _require_mu(mu, scan.activity)
        share = projector.attenuation(_tensor(mu))
    else:
        share = torch.ones((), device=scan.events.device)
    weights = (share * scan.events_per_value).expand_as(scan.events)
    parts = []
    for index in _spread(options.subsets):
        part = projector.subset(index, options.subsets)
        sensitivity = part.adjoint(weights[:, index :: options.subsets])
        parts.append((part, scan.events[:, index :: options.subsets], sensitivity))
    # Any positive start will do; this one has the right number of events.
    shape = parts[0][2].shape
    level = scan.events.sum() / sum(float(sensitivity.sum()) for _, _, sensitivity in parts)
    image = torch.full(shape, float(level), device=scan.events.device)
    for _ in range(options.iterations):
        for part, events, sensitivity in parts:
            image = _updated(image, part, events, sensitivity)
    return _pet(image, scan, mu, options)


def _updated(
    image: torch.Tensor, part: Projector, events: torch.Tensor, sensitivity: torch.Tensor
) -> torch.Tensor:
    seen = part.forward(image)
    ratio = torch.where(seen > 0, events / seen.clamp_min(1e-30), 0.0)
    factor = part.adjoint(ratio) / sensitivity.clamp_min(1e-30)
    return torch.where(sensitivity > 0, image * factor, 0.0)


def _spread(count: int) -> list[int]:
    """Subsets in an order in which neighbours differ much: by the golden ratio."""
    golden = (math.sqrt(5) - 1) / 2
    return sorted(range(count), key=lambda k: (k * golden) % 1.0)


def _pet(
    image: torch.Tensor, scan: Scan, mu: Volume | None, options: ReconstructionOptions
) -> Volume:
    corrected = "with attenuation correction" if mu is not None else "without correction"
    left_out = "scatter, randoms and the detectors' resolution are left out"
    settings = {
        **asdict(scan.options),
        **asdict(options),
        "attenuation_corrected": mu is not None,
        "note": f"The PET {corrected} is a simulation: {left_out}.",
    }
    spacing = np.asarray(scan.activity.grid.spacing_mm[::-1])
    sigma = options.smoothing_fwhm_mm / FWHM_IN_SIGMAS / spacing
    values = ndimage.gaussian_filter(image.cpu().numpy(), sigma, mode="nearest")
    return scan.activity.with_array(
        values.astype(np.float32),
        role=Role.NAC_PET if mu is None else Role.PET,
        unit=scan.activity.unit,
        step=Step("simulate_pet", settings),
    )


def _require_mu(mu: Volume, activity: Volume) -> None:
    mu.require_unit(Unit.PER_CM)
    mu.require_grid_of(activity)
    if not (np.isfinite(mu.array).all() and (mu.array >= 0).all()):
        raise InputError("The µ-map has values below 0 or that are no numbers: set them to 0.")


def _tensor(volume: Volume) -> torch.Tensor:
    return torch.from_numpy(np.array(volume.array, np.float32))  # a copy: the view is read-only
