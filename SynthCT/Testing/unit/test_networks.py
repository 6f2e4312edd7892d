"""Networks: the contract by name, shapes, sizes, and agreement with independent builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.utils import pixelshuffle
from monai_shuffle_unet import monai_shuffle_unet

from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.networks import build_network, list_networks
from SynthCTLib.networks.shuffle_unet import pixel_shuffle


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ["no_such_net", "", "../shuffle_unet", "Shuffle_Unet", "os"])
def test_an_unknown_network_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(MissingModel, match="shuffle_unet"):
        build_network(name, {})


@pytest.mark.parametrize("name", list_networks())
def test_an_unknown_setting_is_refused_by_every_network(name: str) -> None:
    with pytest.raises(InputError, match="colour"):
        build_network(name, {"colour": "red"})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"channels": [8]}, "channels"),
        ({"channels": [8, 0]}, "channels"),
        ({"residual_units": -1}, "residual_units"),
        ({"in_channels": "one"}, "in_channels"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        build_network("shuffle_unet", settings)


def test_naming_networks_does_not_load_torch() -> None:
    library = Path(__file__).resolve().parents[2]
    code = "import SynthCTLib.networks as n, sys; n.list_networks(); print('torch' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=library, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "False"


# ShuffleUNet


def test_paper_1s_network_has_the_parameters_of_the_same_build_from_monais_blocks() -> None:
    ours = build_network("shuffle_unet", {})
    assert parameters(ours) == parameters(
        monai_shuffle_unet((32, 64, 128, 256, 512), residual_units=2)
    )


def test_every_convolution_of_a_small_network_is_counted() -> None:
    def convolution(inside: int, outside: int) -> int:
        return 27 * inside * outside + outside

    slope = 1
    expected = (
        convolution(1, 2) + slope  # down to half the resolution
        + convolution(2, 4) + slope  # bottom
        + convolution(2 + 4, 8 * 1) + convolution(1, 1)  # pixel shuffle and the last convolution
    )  # fmt: skip
    small = build_network("shuffle_unet", {"channels": [2, 4], "residual_units": 0})
    assert parameters(small) == expected


@pytest.mark.parametrize("residual_units", [0, 2])
@pytest.mark.parametrize("shape", [(16, 24, 8), (8, 8, 8)])
def test_the_answer_has_the_shape_of_the_patch(
    residual_units: int, shape: tuple[int, int, int]
) -> None:
    settings = {
        "in_channels": 2,
        "out_channels": 3,
        "channels": [2, 3, 4],
        "residual_units": residual_units,
    }
    network = build_network("shuffle_unet", settings).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)


def test_the_output_is_not_bounded_by_an_activation() -> None:
    torch.manual_seed(3)
    for units in (0, 2):
        network = build_network("shuffle_unet", {"channels": [2, 4], "residual_units": units})
        with torch.inference_mode():
            wide = torch.cat([network(1000 * torch.randn(1, 1, 8, 8, 8)) for _ in range(4)])
        assert wide.min() < 0 < wide.max()


def test_pixel_shuffle_puts_channels_where_monai_puts_them() -> None:
    x = torch.arange(2 * 16 * 2 * 3 * 4, dtype=torch.float32).reshape(2, 16, 2, 3, 4)
    assert torch.equal(pixel_shuffle(x), pixelshuffle(x, 3, 2))


def test_pixel_shuffle_fills_octants_x_fastest() -> None:
    x = torch.arange(8, dtype=torch.float32).reshape(1, 8, 1, 1, 1)
    assert np.array_equal(pixel_shuffle(x)[0, 0].numpy(), np.arange(8).reshape(2, 2, 2))


def test_a_fresh_pixel_shuffle_draws_no_checkerboard() -> None:
    network = build_network("shuffle_unet", {"channels": [2, 4], "smoothed": False})
    with torch.inference_mode():
        fine = network.up[0].shuffle(torch.randn(1, 6, 4, 4, 4))
    # All octants come from equal weights; only the small biases tell them apart.
    bias = network.up[0].shuffle.conv.bias.detach()
    assert (fine[..., ::2, ::2, ::2] - fine[..., 1::2, 1::2, 1::2]).abs().max() <= (
        bias.max() - bias.min()
    ) * 1.001


def test_training_reaches_every_weight() -> None:
    torch.manual_seed(0)
    network = build_network("shuffle_unet", {"channels": [2, 3, 4]})
    network(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
