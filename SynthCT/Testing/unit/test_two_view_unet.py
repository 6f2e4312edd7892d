"""The U-Net with two views: what its pieces are, and what its answer depends on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from SynthCTLib.errors import InputError
from SynthCTLib.networks import build_network, has_context
from SynthCTLib.networks.two_view_unet import TwoViewUNet, pixel_shuffle, pixel_unshuffle

SMALL = {"fine": [4, 6, 8], "wide": [4, 4, 6, 8]}


@pytest.fixture(scope="module")
def network() -> TwoViewUNet:
    torch.manual_seed(1)
    made = build_network("two_view_unet", SMALL)
    assert isinstance(made, TwoViewUNet)
    for module in made.modules():  # as after some training: not the identity
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return made.eval()


def test_pixel_shuffle_undoes_unshuffle_and_keeps_cubes_together() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    assert torch.equal(pixel_shuffle(pixel_unshuffle(x)), x)
    cube = pixel_unshuffle(x)[1, :, 1, 2, 3].reshape(3, 2, 2, 2)
    assert torch.equal(cube, x[1, :, 2:4, 4:6, 6:8])


def test_pooling_by_hand(network: TwoViewUNet) -> None:
    volume = torch.zeros((1, 2, 16, 16, 16))
    volume[0, 0, :2, :2, :2] = 1.0  # one cube of 2 mm
    volume[0, 1] = 1.0
    mean, scanned, least, largest = network.pool(volume)[0, :, 0, 0, 0].tolist()
    assert (mean, scanned, least, largest) == (0.125, 1.0, 0.0, 1.0)


@pytest.mark.parametrize("shape", [(48, 16, 16), (48, 32, 80), (16, 112, 64)])
def test_any_volume_of_multiples_of_16_is_answered_in_its_size(
    network: TwoViewUNet, shape: tuple[int, int, int]
) -> None:
    with torch.inference_mode():
        x = torch.rand((1, 2, *shape))
        assert network(x).shape == (1, 1, *shape)
        features, sketch = network.look(network.pool(x))
    assert features.shape == (1, 4, *(n // 4 for n in shape))
    assert sketch.shape == (1, 1, *(n // 4 for n in shape))
    assert has_context(network)


def test_the_answer_in_a_patch_is_that_of_the_whole_away_from_its_edge(
    network: TwoViewUNet,
) -> None:
    """No statistics of a patch: beyond the reach of its convolutions a patch changes nothing."""
    volume = torch.rand((1, 2, 128, 128, 128))
    with torch.inference_mode():
        features = network.context(volume)
        whole = network.fine(volume, features)
        crop = slice(16, 112)
        patch = network.fine(volume[:, :, crop, crop, crop], features[:, :, 4:28, 4:28, 4:28])
        middle = slice(40, 56)
        inner = slice(56, 72)
        assert torch.allclose(
            patch[:, :, middle, middle, middle], whole[:, :, inner, inner, inner], atol=1e-4
        )
        elsewhere = torch.rand_like(features)
        other = network.fine(volume, elsewhere)
    assert not torch.allclose(other, whole, atol=1e-3)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="fine"):
        build_network("two_view_unet", {"fine": [4, 4]})
    with pytest.raises(InputError, match="depth"):
        build_network("two_view_unet", {"depth": 3})
