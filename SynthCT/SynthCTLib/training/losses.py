"""The losses by name, each with its equation.

Every loss takes the prediction p and the target t, in HU of a CT and in SUV of a PET, and weights
w, all of shape (n, 1, z, y, x), and gives one number. Where w is 0 nothing is counted. Losses of
bone are for CTs, ``suv_weighted_l2`` is for PETs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from SynthCTLib.errors import InputError
from SynthCTLib.synthesis.patchwise import LOG_ERROR_RANGE

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
HU_UNIT = 1000.0  # so that a loss is near 1


def l1(
    p: Tensor,
    t: Tensor,
    w: Tensor,
    *,
    bone_weight: float = 0.0,
    bone_above_hu: float = 250.0,
    unit: float = HU_UNIT,
) -> Tensor:
    """Mean absolute error: sum v |p - t| / sum v, v = w (1 + b [t > h]).

    ``unit``: what counts as 1, 1000 HU unless told otherwise; of a PET such as 10 (SUV).
    """
    v = w * (1 + bone_weight * (t > bone_above_hu)) if bone_weight else w
    return (v * (p - t).abs()).sum() / v.sum().clamp(min=1) / unit


def l2(p: Tensor, t: Tensor, w: Tensor, *, unit: float = HU_UNIT) -> Tensor:
    """Mean squared error: sum w (p - t)^2 / sum w (Paper 1; Paper 2, eq. 1).

    In squares of ``unit``: what counts as 1, 1000 HU unless told otherwise; of a PET such as 10
    (SUV).
    """
    return (w * (p - t).square()).sum() / w.sum().clamp(min=1) / unit**2


def suv_weighted_l2(
    p: Tensor, t: Tensor, w: Tensor, *, least_suv: float = 0.0, unit: float = 10.0
) -> Tensor:
    """Squared error weighted by the SUV (Paper 3, section 2.4): sum v (p - t)^2 / sum v, v = w t.

    In squares of ``unit`` (SUV). ``least_suv``: v = w max(t, least), so that where there is no
    uptake at all something is asked for too; the paper has 0.
    """
    v = w * t.clamp(min=least_suv)
    return (v * (p - t).square()).sum() / v.sum().clamp(min=1) / unit**2


def gradient_difference(p: Tensor, t: Tensor, w: Tensor, *, unit: float = HU_UNIT) -> Tensor:
    """Difference of gradients (Paper 2, eq. 2): mean over axes of (|dp| - |dt|)^2.

    In squares of ``unit``, as ``l2``.
    Neighbouring voxels along each axis, counted where both have weight; of a single slice the mean
    is over the two axes it has.
    """
    total = p.new_zeros(())
    axes = [axis for axis in (2, 3, 4) if p.shape[axis] > 1]
    for axis in axes:
        dp, dt = p.diff(dim=axis).abs(), t.diff(dim=axis).abs()
        n = w.shape[axis] - 1
        both = torch.minimum(w.narrow(axis, 0, n), w.narrow(axis, 1, n))
        total = total + (both * (dp - dt).square()).sum() / both.sum().clamp(min=1)
    return total / max(1, len(axes)) / unit**2


def bone_dice(
    p: Tensor, t: Tensor, w: Tensor, *, threshold_hu: float = 300.0, width_hu: float = 100.0
) -> Tensor:
    """Soft Dice of bone: 1 - 2 sum w a b / sum w (a + b), a = sigmoid((p - h) / s), b = [t >= h].

    Bone as in the Jaccard of Paper 1 (300 HU). Without any bone in t it is the share of voxels
    called bone.
    """
    a = torch.sigmoid((p - threshold_hu) / width_hu)
    b = (t >= threshold_hu).to(a.dtype)
    both, either = (w * a * b).sum(), (w * (a + b)).sum()
    return 1 - (2 * both + 1) / (either + 1)


def bone_cross_entropy(
    p: Tensor,
    t: Tensor,
    w: Tensor,
    *,
    threshold_hu: float = 300.0,
    width_hu: float = 100.0,
    bone_weight: float = 10.0,
) -> Tensor:
    """Weighted cross-entropy of bone (Paper 2, section 3.3, direct segmentation).

    The logit of bone is (p - h) / s and bone is t >= h: sum v CE / sum v, v = w where there is
    none, w times ``bone_weight`` in bone. A network whose output is scaled by s about h answers in
    logits, and what reaches h is bone with a probability of a half and more. The paper does not
    state its weights.
    """
    bone = (t >= threshold_hu).to(p.dtype)
    v = w * (1 + (bone_weight - 1) * bone)
    entropy = functional.binary_cross_entropy_with_logits(
        (p - threshold_hu) / width_hu, bone, reduction="none"
    )
    return (v * entropy).sum() / v.sum().clamp(min=1)


def stated_error(log_b: Tensor, p: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """How well an error is foretold: sum w (e / b + log b) / sum w, e = |p - t| in 1000 HU.

    The negative logarithm of a Laplace density of scale b (Kendall and Gal, NeurIPS 2017, with the
    absolute error), least where b is the error to be expected. No gradient reaches p: the answer
    is not made worse so as to be foretold. ``log_b`` is of the shape of p.
    """
    e = (p.detach() - t).abs() / HU_UNIT
    log_b = log_b.float().clamp(*LOG_ERROR_RANGE)
    return (w * (e * (-log_b).exp() + log_b)).sum() / w.sum().clamp(min=1)


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    f.__name__.replace("_", "-"): f
    for f in (l1, l2, suv_weighted_l2, gradient_difference, bone_dice, bone_cross_entropy)
}


def loss_named(name: str, settings: Mapping[str, Any]) -> Loss:
    """The loss with its settings filled in. Raises InputError for an unknown name or setting."""
    if name not in LOSSES:
        raise InputError(f"There is no loss named {name!r}: choose one of {', '.join(LOSSES)}.")
    function = LOSSES[name]
    known = [
        p.name for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY
    ]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(
            f"The loss {name} has no setting {', '.join(unknown)}: "
            + (f"it has {', '.join(known)}." if known else "it has none.")
        )

    def loss(p: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return function(p, t, w, **settings)

    return loss
