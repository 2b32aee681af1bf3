"""The U-Net (Ronneberger et al. 2015) in the form that fastMRI has for its baseline (Zbontar et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.errors import ConfigError, require_positive
from invertible.models.common import described
from invertible.models.reconstructor import Core, Reconstructor
from invertible.physics.operator import Observation

SLOPE = 0.2


def unet(
    *,
    image_channels: int = 2,
    output_channels: int = 0,
    channels: int = 32,
    levels: int = 4,
    dropout: float = 0.0,
    residual: bool = True,
    crop: int = 320,
) -> Reconstructor:
    """fastMRI's U-Net on the backprojection, of which it sees no data beyond.

    Convolutions 3 x 3 with instance normalisation and leaky ReLU, two at every level; average pooling down, transposed
    convolutions up. fastMRI's own baseline takes the magnitude of one image, normalised to mean 0 and deviation 1;
    this one takes real and imaginary part, scaled to deviation 1, and by default estimates what is to be added.

    Args:
        image_channels: c, channels of an image: 2 for a complex one.
        output_channels: of the result; c if 0.
        channels: of the first level; every level down doubles them.
        levels: number of poolings.
        dropout: of whole channels, behind every convolution.
        residual: add the backprojection to the result; only with as many channels as it has.
        crop: as in `irim`.

    Returns:
        A `Reconstructor` with one estimate. Parameters: 7,756,097 with one channel in and out.

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> image = unet(image_channels=2, channels=16)(observation)
    """
    arguments = dict(locals())
    out = output_channels or image_channels
    require_positive("models.unet", image_channels=image_channels, output_channels=out)
    require_positive("models.unet", channels=channels, levels=levels)
    if not 0 <= dropout < 1:
        raise ConfigError(f"models.unet: expected dropout in [0, 1), got {dropout}.")
    if residual and out != image_channels:
        raise ConfigError(
            f"models.unet: expected residual=False with output_channels={out}, which differ from "
            f"image_channels={image_channels}."
        )
    network = UNet(image_channels, out, channels, levels, dropout)
    core = DirectReconstruction(network, residual=residual)
    return described("unet", arguments, Reconstructor(core, image_channels=image_channels, crop=crop))


class UNet(nn.Module):
    """A contracting and an expanding path with connections across.

    Sizes that 2^levels does not divide are padded by their borders at the end, and the result is cropped.

    Args:
        in_channels: of x.
        out_channels: of the result.
        channels: of the first level.
        levels: number of poolings.
        dropout: of whole channels, behind every convolution.

    Shapes:
        (B, in_channels, H, W) -> (B, out_channels, H, W), any sizes; instance normalisation needs more than one pixel
        at the coarsest level.
    """

    def __init__(self, in_channels: int, out_channels: int, channels: int, levels: int, dropout: float) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(
            _double(a, b, dropout) for a, b in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(_upsampling(2 * width, width) for width in reversed(widths[:-1]))
        self.join = nn.ModuleList(_double(2 * width, width, dropout) for width in reversed(widths[:-1]))
        self.last = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        height, width = x.shape[2:]
        divisor = 2 ** len(self.up)
        if height % divisor or width % divisor:
            x = functional.pad(x, (0, -width % divisor, 0, -height % divisor), mode="replicate")
        across = []
        for level, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if level else x)
            across.append(x)
        across.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat((up(x), across.pop()), 1))
        return self.last(x)[..., :height, :width]


class DirectReconstruction(Core):
    """An image-to-image network on the backprojection.

    Args:
        network: maps images to images.
        residual: whether it estimates what is to be added.
    """

    def __init__(self, network: nn.Module, *, residual: bool) -> None:
        super().__init__()
        self.network, self.residual = network, residual

    def estimates(self, observation: Observation, image: Tensor, *, every: bool) -> list[Tensor]:
        """The one estimate."""
        found = self.network(image)
        return [image + found if self.residual else found]


def _double(channels: int, out: int, dropout: float) -> nn.Module:
    layers: list[nn.Module] = []
    for width in (channels, out):
        layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.InstanceNorm2d(out)]
        layers += [nn.LeakyReLU(SLOPE, inplace=True), *([nn.Dropout2d(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


def _upsampling(channels: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False),
        nn.InstanceNorm2d(out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )
