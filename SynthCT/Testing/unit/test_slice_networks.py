"""2D networks of PET: against independent builds, values by hand, and layouts of checkpoints."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.autoencoderkl import Decoder as MonaiDecoder
from monai.networks.nets.autoencoderkl import Encoder as MonaiEncoder
from torch import nn
from torch.nn import functional

from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.networks import build_network
from SynthCTLib.networks.fcn4s import enlargement
from SynthCTLib.networks.vq_model import Codebook


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pix2pix_unet", {"channels": [2, 3]}),
        ("fcn4s", {"channels": [2, 2, 2, 2, 2], "hidden": 2}),
        ("vq_model", {"channels": [4, 4], "groups": 2, "codes": 5}),
    ],
)
def test_a_volume_is_answered_slice_by_slice(name: str, settings: dict[str, object]) -> None:
    network = build_network(name, settings).eval()
    nn.init.normal_(network.score.weight) if name == "fcn4s" else None
    volumes = torch.randn(2, 1, 3, 32, 64)
    assert 32 % network.side_multiple == 0
    expected = network.answer(volumes[1, :, 2][None])
    torch.testing.assert_close(network(volumes)[1, :, 2][None], expected, rtol=1e-4, atol=1e-5)


# pix2pix


def small_pix2pix(**changes: object) -> nn.Module:
    torch.manual_seed(1)
    return build_network("pix2pix_unet", {"channels": [3, 5, 7], **changes})


def test_pix2pix_does_what_the_paper_lists_layer_by_layer() -> None:
    network = small_pix2pix().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    w = dict(network.state_dict())
    x = torch.randn(2, 1, 16, 24)

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)

    def up(x: torch.Tensor, name: str) -> torch.Tensor:
        x = torch.relu(x)
        return functional.conv_transpose2d(
            x, w[f"{name}.1.weight"], w[f"{name}.1.bias"], stride=2, padding=1
        )

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    e1 = conv(x, "down.0.0")
    e2 = norm(conv(functional.leaky_relu(e1, 0.2), "down.1.1"), "down.1.2")
    e3 = conv(functional.leaky_relu(e2, 0.2), "down.2.1")
    d3 = norm(up(e3, "up.0"), "up.0.2")
    d2 = norm(up(torch.cat([d3, e2], 1), "up.1"), "up.1.2")
    d1 = norm(up(torch.cat([d2, e1], 1), "up.2"), "up.2.2")
    y = functional.conv2d(torch.relu(d1), w["last.1.weight"], w["last.1.bias"]).tanh()
    torch.testing.assert_close(network.answer(x), y)


def test_pix2pix_of_the_paper_has_the_widths_of_the_paper() -> None:
    with torch.device("meta"):
        network = build_network("pix2pix_unet", {})
    down = [m for m in network.down.modules() if isinstance(m, nn.Conv2d)]
    up = [m for m in network.up.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in down] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [m.out_channels for m in up] == [512, 512, 512, 512, 256, 128, 64, 64]
    assert all(m.kernel_size == (4, 4) and m.stride == (2, 2) for m in down + up)
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 3
    assert network.side_multiple == 256


def test_every_pixel_of_pix2pix_sees_every_other() -> None:
    network = small_pix2pix(bounded=False).eval()
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    network.answer(x)[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


def test_dropout_is_chance_in_training_alone() -> None:
    network = small_pix2pix()
    x = torch.randn(2, 1, 16, 16)
    assert not torch.equal(network.answer(x), network.answer(x))
    network.eval()
    assert torch.equal(network.answer(x), network.answer(x))


def test_an_unbounded_pix2pix_leaves_one() -> None:
    network = small_pix2pix(bounded=False).eval()
    nn.init.constant_(network.last[1].bias, 7.0)
    assert network.answer(torch.zeros(1, 1, 8, 8)).max() > 5


# FCN-4s


def small_fcn(**changes: object) -> nn.Module:
    torch.manual_seed(2)
    return build_network("fcn4s", {"channels": [2, 3, 4, 5, 5], "hidden": 6, **changes})


def test_fcn_adds_the_skips_of_pool_4_3_and_2() -> None:
    network = small_fcn().eval()
    for module in (network.score, *network.score_pools):
        nn.init.normal_(module.weight)
    x = torch.randn(1, 1, 64, 96)
    h, pools = x.repeat(1, 3, 1, 1), []
    for block in network.blocks:
        for layer in block[:-1]:
            if isinstance(layer, nn.Conv2d):
                h = functional.conv2d(h, layer.weight, layer.bias, padding=1).relu()
        h = functional.max_pool2d(h, 2)
        pools.append(h)
    h = functional.conv2d(h, network.fc6.weight, network.fc6.bias, padding=3).relu()
    h = functional.conv2d(h, network.fc7.weight, network.fc7.bias).relu()
    y = functional.conv2d(h, network.score.weight, network.score.bias)
    for index, pool in enumerate((pools[3], pools[2], pools[1])):
        skip = network.score_pools[index]
        y = functional.conv_transpose2d(y, network.enlarge[index].weight, stride=2, padding=1)
        y = y + functional.conv2d(pool, skip.weight, skip.bias)
    y = functional.conv_transpose2d(y, network.enlarge[3].weight, stride=4, padding=2)
    torch.testing.assert_close(network.answer(x), y)
    assert y.shape == x.shape


@pytest.mark.parametrize("factor", [2, 4])
def test_an_enlargement_begins_as_bilinear_interpolation(factor: int) -> None:
    x = torch.randn(1, 2, 6, 7)
    expected = functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inside = slice(factor, -factor)
    made = enlargement(2, factor)(x)
    torch.testing.assert_close(made[..., inside, inside], expected[..., inside, inside])


def test_fcn_begins_at_nothing_and_learns_a_level() -> None:
    network = small_fcn().eval()
    x = torch.randn(1, 1, 32, 32)
    assert (network.answer(x) == 0).all()
    nn.init.constant_(network.score_pools[2].bias, 3.0)
    # All eight voxels beside the border of a bilinear enlargement lose weight; inside it is exact.
    torch.testing.assert_close(network.answer(x)[..., 4:-4, 4:-4], torch.full((1, 1, 24, 24), 3.0))


def vgg_state(widths: tuple[int, ...], hidden: int, classifier: bool) -> dict[str, torch.Tensor]:
    """A state dict in torchvision's layout of vgg16 (0.28): layers without weights are counted."""
    state, index, inside = {}, 0, 3
    for width, count in zip(widths, (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            state[f"features.{index}.weight"] = torch.randn(width, inside, 3, 3)
            state[f"features.{index}.bias"] = torch.randn(width)
            inside, index = width, index + 2  # convolution and ReLU
        index += 1  # pooling
    if classifier:
        state["classifier.0.weight"] = torch.randn(hidden, inside * 49)
        state["classifier.0.bias"] = torch.randn(hidden)
        state["classifier.3.weight"] = torch.randn(hidden, hidden)
        state["classifier.3.bias"] = torch.randn(hidden)
    return state


def test_the_layout_of_vgg_is_torchvisions() -> None:
    names = vgg_state((64, 128, 256, 512, 512), 1, False)
    places = sorted({int(name.split(".")[1]) for name in names})
    assert places == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def test_fcn_takes_the_weights_of_vgg() -> None:
    network = small_fcn().eval()
    state = vgg_state((2, 3, 4, 5, 5), 6, classifier=True)
    assert "13 convolutions and two layers" in network.adopt(state)
    # What VGG's fully connected layers make of an image of one 7x7 field is what FCN makes of it.
    field = torch.randn(1, 5, 7, 7)
    expected = functional.linear(
        field.flatten(1), state["classifier.0.weight"], state["classifier.0.bias"]
    )
    torch.testing.assert_close(network.fc6(field)[:, :, 3, 3], expected)
    first = functional.conv2d(
        torch.ones(1, 3, 5, 5), state["features.0.weight"], state["features.0.bias"], padding=1
    )
    torch.testing.assert_close(network.blocks[0][0](torch.ones(1, 3, 5, 5)), first)


def test_fcn_says_which_layers_of_vgg_are_not_in_the_file() -> None:
    assert "at random" in small_fcn().adopt(vgg_state((2, 3, 4, 5, 5), 6, classifier=False))


def test_fcn_refuses_what_is_no_vgg_of_its_size() -> None:
    with pytest.raises(MissingModel, match="VGG-16"):
        small_fcn().adopt(vgg_state((2, 3, 4, 5, 6), 6, classifier=False))
    with pytest.raises(MissingModel, match="VGG-16"):
        small_fcn().adopt({"conv.weight": torch.zeros(1)})


# VQ


SMALL_VQ = {"channels": [8, 12, 16], "groups": 4, "codes": 20}


def small_vq(**changes: object) -> nn.Module:
    torch.manual_seed(3)
    return build_network("vq_model", SMALL_VQ | changes)


def filled(theirs: nn.Module, mine: nn.Module, order: tuple[str, ...]) -> nn.Module:
    """MONAI's network with our weights, and the SiLU that it leaves out before the last layer."""
    state, target = mine.state_dict(), theirs.state_dict()
    values = [v for part in order for k, v in state.items() if k.startswith(part + ".")]
    theirs.load_state_dict(dict(zip(target, values, strict=True)))
    theirs.blocks.insert(len(theirs.blocks) - 1, nn.SiLU())
    return theirs


def test_the_encoder_is_monais_with_the_activation_it_lacks() -> None:
    mine = small_vq().eval().encoder
    mine.mid = nn.Identity()  # MONAI's attention needs a further package: see below
    theirs = MonaiEncoder(2, 3, (8, 12, 16), 3, (2, 2, 2), 4, 1e-6, (False,) * 3, False)
    filled(theirs, mine, ("conv_in", "down.0", "down.1", "down.2", "norm_out", "conv_out"))
    x = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_the_decoder_is_monais_with_the_activation_it_lacks() -> None:
    mine = small_vq().eval().decoder
    mine.mid = nn.Identity()
    theirs = MonaiDecoder(2, (8, 12, 16), 3, 3, (3, 3, 3), 4, 1e-6, (False,) * 3, False)
    filled(theirs, mine, ("conv_in", "up.2", "up.1", "up.0", "norm_out", "conv_out"))
    z = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(mine(z), theirs(z), rtol=1e-4, atol=1e-5)


def test_attention_is_the_softmax_of_the_scaled_products() -> None:
    part = small_vq().encoder.mid.attn_1
    x = torch.randn(1, 16, 3, 5)
    normal = functional.group_norm(x, 4, part.norm.weight, part.norm.bias, 1e-6)
    q, k, v = (f(normal)[0].flatten(1) for f in (part.q, part.k, part.v))  # (channels, places)
    share = torch.softmax(q.T @ k / 16**0.5, dim=1)  # of each place, over all places
    seen = (v @ share.T).reshape(1, 16, 3, 5)
    torch.testing.assert_close(part(x), x + part.proj_out(seen), rtol=1e-4, atol=1e-5)


def test_a_vector_becomes_the_nearest_code() -> None:
    book = Codebook(3, 2)
    book.embedding.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    z = torch.tensor([[[[0.4, 0.6]], [[0.0, 0.1]]]])  # (0.4, 0.0) and (0.6, 0.1)
    near = book(z)
    assert near.codes.tolist() == [[[0, 1]]]
    assert near.vectors[0, :, 0, 1].tolist() == [1.0, 0.0]


def test_gradients_pass_the_codebook_as_if_it_were_not_there() -> None:
    network = small_vq().train()
    x = torch.randn(1, 1, 16, 16)
    network.answer(x).mean().backward()
    assert network.encoder.conv_in.weight.grad.abs().sum() > 0
    assert network.quantize.embedding.weight.grad is None  # L1 alone leaves the codes as they are
    assert network.own_terms() == {}


def test_the_codebooks_own_loss_is_that_of_van_den_oord() -> None:
    network = small_vq(commitment=0.25).train()
    x = torch.randn(1, 1, 16, 16)
    network.answer(x)
    z = network.quant_conv(network.encoder(x.repeat(1, 3, 1, 1)))
    distance = (z - network.quantize(z).vectors).square().mean()
    # Both terms have the same value, with different gradients.
    torch.testing.assert_close(network.own_terms()["codebook"], 1.25 * distance)


def ldm_f4_state() -> dict[str, torch.Tensor]:
    """Names and shapes of the public vq-f4: ch 128, ch_mult 1 2 4, 2 residual blocks, 8192 x 3.

    By the program that wrote it (CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py).
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, outside: int, inside: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (outside, inside, kernel, kernel)
        shapes[f"{name}.bias"] = (outside,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def block(name: str, inside: int, outside: int) -> None:
        norm(f"{name}.norm1", inside)
        layer(f"{name}.conv1", outside, inside, 3)
        norm(f"{name}.norm2", outside)
        layer(f"{name}.conv2", outside, outside, 3)
        if inside != outside:
            layer(f"{name}.nin_shortcut", outside, inside, 1)

    for side in ("encoder", "decoder"):
        for number in (1, 2):
            block(f"{side}.mid.block_{number}", 512, 512)
        norm(f"{side}.mid.attn_1.norm", 512)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{side}.mid.attn_1.{part}", 512, 512, 1)
    layer("encoder.conv_in", 128, 3, 3)
    for level, (inside, width) in enumerate([(128, 128), (128, 256), (256, 512)]):
        block(f"encoder.down.{level}.block.0", inside, width)
        block(f"encoder.down.{level}.block.1", width, width)
        if level < 2:
            layer(f"encoder.down.{level}.downsample.conv", width, width, 3)
    norm("encoder.norm_out", 512)
    layer("encoder.conv_out", 3, 512, 3)
    layer("decoder.conv_in", 512, 3, 3)
    for level, (inside, width) in enumerate([(256, 128), (512, 256), (512, 512)]):
        block(f"decoder.up.{level}.block.0", inside, width)
        block(f"decoder.up.{level}.block.1", width, width)
        block(f"decoder.up.{level}.block.2", width, width)
        if level:
            layer(f"decoder.up.{level}.upsample.conv", width, width, 3)
    norm("decoder.norm_out", 128)
    layer("decoder.conv_out", 3, 128, 3)
    shapes["quantize.embedding.weight"] = (8192, 3)
    layer("quant_conv", 3, 3, 1)
    layer("post_quant_conv", 3, 3, 1)
    return {name: torch.full((), 0.5).expand(shape) for name, shape in shapes.items()}


def test_the_public_checkpoints_layout_is_taken_as_it_is() -> None:
    network = build_network("vq_model", {})
    state = ldm_f4_state()
    told = network.adopt(
        state
        | {"loss.discriminator.main.0.weight": torch.zeros(1), "model_ema.decay": torch.ones(())}
    )
    assert f"{len(state)} tensors" in told
    assert all((v == 0.5).all() for v in network.state_dict().values())


def test_another_checkpoint_is_refused_by_the_first_tensor_that_differs() -> None:
    network = small_vq()
    state = dict(network.state_dict())
    with pytest.raises(MissingModel, match="quant_conv"):
        network.adopt({k: v for k, v in state.items() if not k.startswith("quant_conv")})
    with pytest.raises(MissingModel, match="tensors differ"):
        network.adopt(ldm_f4_state())


def test_channels_that_the_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 32"):
        build_network("vq_model", {"channels": [32, 40]})
