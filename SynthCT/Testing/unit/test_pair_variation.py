"""Varied pairs: what stays together, what stays unknown, and that nothing happens by default."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from SynthCTLib.training.pair_variation import PairVariation, varied


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(shape: tuple[int, int, int] = (24, 32, 40)) -> tuple[torch.Tensor, ...]:
    """A smooth blob off the middle; the CT a function of the MR."""
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    blob = torch.exp(-(((z - 12) / 5) ** 2 + ((y - 14) / 6) ** 2 + ((x - 24) / 7) ** 2))
    image = torch.stack((blob, torch.ones_like(blob)))
    return image, 1000 * blob[None] - 1000, torch.ones_like(blob)[None]


def test_nothing_is_changed_by_default() -> None:
    image, hu, weight = pair()
    made = varied(image, hu, weight, PairVariation(), generator())
    assert all(torch.equal(a, b) for a, b in zip(made, (image, hu, weight), strict=True))


def test_mirroring_takes_everything_along() -> None:
    image, hu, weight = pair()
    outcomes = set()
    for seed in range(8):
        made, moved, _ = varied(image, hu, weight, PairVariation(mirror=("x",)), generator(seed))
        assert torch.equal(moved, 1000 * made[:1] - 1000)
        assert torch.equal(made[:1], image[:1]) or torch.equal(made[:1], image[:1].flip(-1))
        outcomes.add(bool(torch.equal(made, image)))
    assert outcomes == {True, False}


def test_turned_pairs_stay_together_and_know_what_left_the_field() -> None:
    image, hu, weight = pair()
    by = PairVariation(turn_degrees=20, size=0.2)
    made, moved, known = varied(image, hu, weight, by, generator(3))
    assert not torch.equal(made, image)
    assert torch.allclose(moved, 1000 * made[:1] - 1000, atol=0.05)
    assert 0 < float(known.mean()) < 1
    assert set(known.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(made[1:] > 0.99, known > 0)  # the scanned field turns with the body
    assert float(image.max()) == float(pair()[0].max())


def test_a_turn_between_unequal_sides_is_a_turn() -> None:
    """A ball in the middle stays one: scaling by unequal sides would flatten it."""
    z, y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (24, 32, 48)), indexing="ij")
    ball = torch.exp(-(z**2 + y**2 + x**2) / 40)[None]
    hu, weight = 1000 * ball - 1000, torch.ones_like(ball)
    made, _, _ = varied(ball, hu, weight, PairVariation(turn_degrees=45), generator(1))
    assert float((made - ball).abs().max()) < 0.03


def test_a_larger_size_is_larger_by_so_much() -> None:
    image, hu, weight = pair()
    volumes = []
    for seed in range(6):
        made, _, _ = varied(image, hu, weight, PairVariation(size=0.1), generator(seed))
        volumes.append(float(made[0].sum() / image[0].sum()))
    assert 0.9**3 - 0.02 < min(volumes) < 1 < max(volumes) < 1.1**3 + 0.02


def test_contrast_changes_the_mr_where_it_was_scanned_and_nothing_else() -> None:
    image, hu, weight = pair()
    image[:, :4] = 0
    by = PairVariation(gamma=0.2, bias=0.2, noise=0.05)
    made, moved, known = varied(image, hu, weight, by, generator())
    assert torch.equal(moved, hu)
    assert torch.equal(known, weight)
    assert torch.equal(made[1], image[1])
    assert not torch.equal(made[0], image[0])
    assert float(made[0].min()) >= 0
    assert torch.count_nonzero(made[:, :4]) == 0


@pytest.mark.parametrize("wrong", [{"size": 1.0}, {"noise": -1}, {"mirror": ["w"]}, {"shear": 1}])
def test_variations_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(PairVariation).validate_python(wrong)
