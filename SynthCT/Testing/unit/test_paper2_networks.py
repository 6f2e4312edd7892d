"""Paper 2's networks: layers counted, parameters by hand, what an output sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from SynthCTLib.errors import InputError
from SynthCTLib.networks import build_network
from SynthCTLib.networks.patchgan import Settings as PatchGANSettings
from SynthCTLib.synthesis.engines import Precision

SMALL = {"channels": [2, 3, 4, 5]}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def convolution(inside: int, outside: int, volume: int) -> int:
    return volume * inside * outside + outside


def seen_side(network: nn.Module, side: int, axis: int, channels: int = 1) -> int:
    """How many voxels along an axis of the input change the middle of the output."""
    x = torch.rand((1, channels, 1, side, side), dtype=torch.float64, requires_grad=True)
    made = network.double().eval()(x)
    index = [n // 2 for n in made.shape]
    index[0] = index[1] = 0
    made[tuple(index)].backward()
    assert x.grad is not None
    others = tuple(a for a in range(5) if a != axis)
    return int(torch.count_nonzero(x.grad.abs().amax(others)))


# DeepUNet


@pytest.mark.parametrize("dimensions", [2, 3])
def test_deep_unet_has_the_23_layers_and_3_poolings_of_paper_2(dimensions: int) -> None:
    network = build_network("deep_unet", {**SMALL, "dimensions": dimensions})
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    assert sum(isinstance(m, kinds) for m in network.modules()) == 23
    poolings = []
    network.pool.register_forward_hook(lambda *_: poolings.append(1))
    network(torch.zeros(1, 1, 16, 16, 16))
    assert len(poolings) == 3


@pytest.mark.parametrize("channels", [(2, 3, 4, 5), (64, 128, 256, 512)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_deep_unet_parameters_by_hand(dimensions: int, channels: tuple[int, ...]) -> None:
    full, up = 3**dimensions, 2**dimensions
    a, b, c, d = channels
    expected = 0
    for inside, outside in ((1, a), (a, b), (b, c), (c, d)):
        expected += convolution(inside, outside, full) + 2 * convolution(outside, outside, full)
    for under, own in ((d, c), (c, b), (b, a)):
        expected += convolution(under, own, up) + convolution(2 * own, own, full)
    expected += 2 * convolution(c, c, full) + 2 * convolution(b, b, full)
    expected += convolution(a, 1, 1)
    with torch.device("meta"):
        network = build_network("deep_unet", {"channels": channels, "dimensions": dimensions})
    assert parameters(network) == expected


def test_deep_unet_in_2d_answers_each_slice_for_itself() -> None:
    network = build_network("deep_unet", SMALL).eval()
    x = torch.rand(2, 1, 3, 16, 24)
    whole = network(x)
    assert whole.shape == x.shape
    for n in range(2):
        for z in range(3):
            alone = network(x[n : n + 1, :, z : z + 1])
            assert torch.allclose(whole[n, :, z], alone[0, :, 0], atol=1e-6)


def test_deep_unet_in_3d_sees_its_neighbouring_slices() -> None:
    network = build_network("deep_unet", {**SMALL, "dimensions": 3}).eval()
    x = torch.rand(1, 1, 8, 16, 16)
    other = x.clone()
    other[:, :, 0] += 1
    assert network(x).shape == x.shape
    assert not torch.allclose(network(x)[:, :, 1], network(other)[:, :, 1], atol=1e-6)


def test_what_a_voxel_of_deep_unet_sees() -> None:
    """By hand: the interval of voxels that voxel 96 of a row depends on, followed backwards.

    Up: 95-97 of the row, 47-48 a pooling below, three convolutions 44-51; 22-25, 19-28; bottom
    9-14, 6-17. Down: twice that is 12-35, three convolutions 9-38; 18-77, 15-80; 30-161, 27-164.
    """
    torch.manual_seed(0)
    network = build_network("deep_unet", {"channels": [3, 3, 3, 3]})
    for module in network.modules():  # no dead unit, no maximum that hides a voxel
        if isinstance(module, nn.ReLU):
            module.forward = lambda x: x  # type: ignore[method-assign]
    network.pool = nn.AvgPool2d(2)
    assert seen_side(network, 192, axis=4) == 164 - 27 + 1


def test_deep_unet_normalised_adds_two_numbers_a_channel_and_drops_the_bias() -> None:
    plain = build_network("deep_unet", SMALL)
    normal = build_network("deep_unet", {**SMALL, "normalised": True})
    channels = 3 * (2 + 3 + 4 + 5) + 3 * (4 + 3) + 2
    assert parameters(normal) == parameters(plain) + channels


# PatchGAN


@pytest.mark.parametrize(
    ("channels", "side"), [([64, 128, 256, 512], 70), ([8, 16], 16), ([8, 8, 8], 34), ([8], 7)]
)
def test_a_judgement_sees_the_70_pixels_of_isola_and_fewer_of_a_shallower_one(
    channels: list[int], side: int
) -> None:
    assert PatchGANSettings(channels=tuple(channels)).receptive_field == side


def test_the_stated_receptive_field_is_the_one_that_gradients_find() -> None:
    torch.manual_seed(0)
    network = build_network("patchgan", {"channels": [3, 3, 3, 3]})
    for module in network.modules():  # normalisation spreads over the whole image
        if isinstance(module, nn.InstanceNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.rand((1, 1, 1, 160, 160), dtype=torch.float64, requires_grad=True)
    made = network.double()(x)
    made[0, 0, made.shape[2] // 2, made.shape[3] // 2].backward()
    assert x.grad is not None
    assert int(torch.count_nonzero(x.grad.abs().amax((0, 1, 2, 3)))) == 70


def test_patchgan_parameters_and_judgements_by_hand() -> None:
    network = build_network("patchgan", {"in_channels": 2, "channels": [4, 6, 8]})
    expected = (
        convolution(2, 4, 16)
        + convolution(4, 6, 16) + 2 * 6
        + convolution(6, 8, 16) + 2 * 8
        + convolution(8, 1, 16)
    )  # fmt: skip
    assert parameters(network) == expected
    # 64 to 32, 16, then 15 and 14: three slices of two patches are six images.
    assert network(torch.rand(2, 2, 3, 64, 64)).shape == (6, 1, 14, 14)
    solid = build_network("patchgan", {"channels": [4, 6, 8], "dimensions": 3})
    assert solid(torch.rand(2, 1, 32, 32, 32)).shape == (2, 1, 6, 6, 6)


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("deep_unet", {"channels": [4, 4, 4]}, "channels"),
        ("deep_unet", {"dimensions": 4}, "dimensions"),
        ("patchgan", {"channels": []}, "channels"),
        ("patchgan", {"dimensions": 1}, "dimensions"),
    ],
)
def test_settings_that_cannot_be_are_named(
    name: str, settings: dict[str, object], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        build_network(name, settings)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_openvino_computes_deep_unet_as_torch_does(dimensions: int) -> None:
    """Larger than the excerpt that is traced: the slices folded into the batch are counted anew."""
    pytest.importorskip("openvino")
    from SynthCTLib.synthesis.openvino_engine import OpenVinoEngine

    torch.manual_seed(2)
    network = build_network("deep_unet", {**SMALL, "dimensions": dimensions}).eval()
    patch = torch.rand(1, 1, 16, 96, 112)
    with torch.inference_mode():
        wanted = network(patch).numpy()
    engine = OpenVinoEngine(network, Precision.FP32, 1)
    engine.begin(patch[0].numpy())
    assert engine.predict(patch.numpy(), [(0, 0, 0)]) == pytest.approx(wanted, abs=1e-4)
