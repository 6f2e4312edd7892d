"""One run of ITK's registration framework: cancellable, seeded, with its own thread count."""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk

from SynthCTLib.errors import RegistrationFailed
from SynthCTLib.progress import Progress
from SynthCTLib.registration.options import Metric


@dataclass(frozen=True)
class Descent:
    """How a run ended: ``metric`` is what ITK minimises (minus the mutual information)."""

    metric: float
    iterations: int
    converged: bool
    reason: str


class _Watch:
    """Reports every iteration, and stops the method when that raises.

    ITK lets no exception out of a callback, so it is kept here and raised after the run.
    """

    def __init__(self, method: sitk.ImageRegistrationMethod, progress: Progress, most: int) -> None:
        self._method, self._progress, self._most = method, progress, most
        self._done = 0
        self.raised: BaseException | None = None

    def __call__(self) -> None:
        if self.raised is not None:
            return
        self._done += 1
        try:
            self._progress.update(min(self._done / self._most, 1.0))
        except BaseException as error:
            self.raised = error
            self._method.StopRegistration()


@dataclass(frozen=True)
class Similarity:
    """The metric of a run, and from how many points of the fixed image it is computed."""

    metric: Metric
    bins: int
    samples: int
    seed: int
    threads: int | None


def method_for(
    fixed: sitk.Image, fixed_mask: sitk.Image | None, similarity: Similarity
) -> sitk.ImageRegistrationMethod:
    """ITK's registration method with everything set but the transform and the optimiser."""
    method = sitk.ImageRegistrationMethod()
    if similarity.threads is not None:
        method.SetNumberOfThreads(similarity.threads)
    match similarity.metric:
        case Metric.MATTES:
            method.SetMetricAsMattesMutualInformation(similarity.bins)
        case Metric.CORRELATION:
            method.SetMetricAsCorrelation()
    share = similarity.samples / fixed.GetNumberOfPixels()
    if share < 1.0:
        # Regular in ITK is jittered, by the seed: without the jitter mutual information has
        # false optima where the voxels of both grids coincide (Pluim 2000).
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, similarity.seed)
    if fixed_mask is not None:
        method.SetMetricFixedMask(fixed_mask)
    method.SetInterpolator(sitk.sitkLinear)
    # The gradient filters smooth: their zero lies 0.1 mm beside the maximum of the metric itself.
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    return method


def run(
    method: sitk.ImageRegistrationMethod,
    fixed: sitk.Image,
    moving: sitk.Image,
    progress: Progress,
    most: int,
) -> Descent:
    """Optimise the method's own transform in place.

    Raises what ``progress`` raises, and RegistrationFailed when ITK finds too little overlap.
    """
    watch = _Watch(method, progress, most)
    method.AddCommand(sitk.sitkIterationEvent, watch)
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        if watch.raised is None:
            raise RegistrationFailed(
                "The images hardly overlap: check that both show the same body part, or give a "
                "transform."
            ) from error
    finally:
        method.RemoveAllCommands()
    if watch.raised is not None:
        raise watch.raised
    iterations = method.GetOptimizerIteration()
    return Descent(
        metric=method.GetMetricValue(),
        iterations=iterations,
        converged=iterations < most,
        reason=method.GetOptimizerStopConditionDescription(),
    )
