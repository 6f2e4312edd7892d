"""``review.json``: what a reader looks at after a run, besides the images and the figures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from SynthCTLib.metrics.histogram import hu_histogram
from SynthCTLib.metrics.masked import masked_pair
from SynthCTLib.metrics.places import worst_places
from SynthCTLib.volume import Role, Volume
from SynthCTLib.workflow.outcome import Outcome

EDGES_HU = np.arange(-1000, 2001, 50.0)
POINTS = 1500


def review_record(outcome: Outcome) -> dict[str, Any]:
    """Plain JSON values.

    schema      "synthct-review/1"
    places      of ("difference", "uncertainty" or null), unit, and a list of position_lps_mm,
                mean, volume_ml: the largest clusters, the worst first
    histogram   edges_hu, synthetic, reference (or null): voxels in the region by HU
    scatter     reference_hu, synthetic_hu: a fixed sample of the voxels in the region, or null
    """
    made = outcome.volumes["pet" if "pet" in outcome.volumes else "ct"]
    reference = outcome.volumes.get("reference_ct")
    region = _judged(outcome)
    record: dict[str, Any] = {
        "schema": "synthct-review/1",
        "places": {"of": None, "unit": made.unit.value, "list": []},
        "histogram": None,
        "scatter": None,
    }
    if region is None or made.role != Role.CT:
        return record
    kind = next((k for k in ("difference", "ct_uncertainty") if k in outcome.volumes), None)
    if kind is not None:
        found = worst_places(outcome.volumes[kind], region)
        record["places"]["of"] = kind.removeprefix("ct_")
        record["places"]["list"] = [_rounded(asdict(place)) for place in found]
    record["histogram"] = {
        "edges_hu": EDGES_HU.tolist(),
        "synthetic": hu_histogram(made, region, EDGES_HU).counts.tolist(),
        "reference": None
        if reference is None
        else hu_histogram(reference, region, EDGES_HU).counts.tolist(),
    }
    if reference is not None:
        pair = masked_pair(reference, made, region)
        chosen = np.random.default_rng(0).permutation(pair.reference.size)[:POINTS]
        record["scatter"] = {
            "reference_hu": np.round(pair.reference[chosen]).tolist(),
            "synthetic_hu": np.round(pair.synthetic[chosen]).tolist(),
        }
    return record


def _judged(outcome: Outcome) -> Volume | None:
    """The region, cut to what was scanned and to where something is claimed; None when empty."""
    region = outcome.region
    if region is None:
        return None
    inside = region.array > 0
    for name in ("masks/scanned", "ct_coverage"):
        cut = outcome.volumes.get(name)
        if cut is not None:
            inside = inside & (cut.array > 0)
    return region.mask(inside) if inside.any() else None


def _rounded(place: dict[str, Any]) -> dict[str, Any]:
    return {
        "position_lps_mm": [round(x, 2) for x in place["position_lps_mm"]],
        "mean": round(place["mean"], 2),
        "volume_ml": round(place["volume_ml"], 3),
    }
