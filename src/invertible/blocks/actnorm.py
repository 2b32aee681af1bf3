"""Activation normalisation, initialised from data."""

import math

import torch
from torch import Tensor, distributed, nn

from invertible.ball import constant_norm, like, norms_of
from invertible.bijection import Bijection, ChannelAffine, Domain, LipschitzBounds
from invertible.errors import ConfigError, DomainError, require_positive
from invertible.norms import outward
from invertible.shapes import log_det_dtype


class ActNorm(Bijection):
    """y = (x + b) e^l for every feature or channel; inverse: x = y e^-l - b (Kingma & Dhariwal 2018, section 3.1).

    log_det = sum l, times the number of positions. The first batch seen by `forward` in training mode sets b and l so
    that every channel leaves with mean 0 and variance 1 (Salimans & Kingma 2016); before it the block is the identity.
    `inverse` never initialises, so sampling first does no harm. The flag is a buffer: it is saved and loaded. Where
    torch.distributed runs, the statistics are those of the batches of all ranks.

    Args:
        features: size of axis 1.
        floor: least standard deviation to divide by at initialisation; without one a constant channel is refused.

    Shapes:
        x, y: (B, features, ...), any number of spatial axes; log_det: (B,).

    Numerics: Lip(f) = max e^l, Lip(f^-1) = max e^-l, on the whole space.

    Raises:
        ConfigError: if `features` or `floor` is not positive.
        DomainError: at initialisation, if a channel is constant or not finite.

    Example:
        >>> block = ActNorm(12)
        >>> y, log_det = block(torch.randn(64, 12, 4, 4))  # initialises
    """

    def __init__(self, features: int, *, floor: float | None = None) -> None:
        super().__init__()
        require_positive("ActNorm", features=features)
        if floor is not None and not 0 < floor < math.inf:
            raise ConfigError(f"ActNorm: expected a positive floor, got {floor}.")
        self.features, self.floor = features, floor
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.initialized: Tensor
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        # Mirrors the buffer once it is True, so that no call waits for a device to answer.
        self._known_initialized = False

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x + b) e^l."""
        self._check(x, condition, self.features, None, self.log_scale)
        if self.training and not self._known_initialized and len(x):
            self._initialize(x)
        scale = self._shaped(self.log_scale.exp(), x)
        return torch.addcmul(self._shaped(self.shift, x) * scale, x, scale), self._log_det(1, x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y e^-l - b."""
        self._check(y, condition, self.features, None, self.log_scale)
        scale = self._shaped(torch.exp(-self.log_scale), y)
        return torch.addcmul(-self._shaped(self.shift, y), y, scale), self._log_det(-1, y)

    @property
    def is_channel_affine(self) -> bool:
        """Unless the next call may initialise."""
        return self._known_initialized or not self.training

    def channel_affine(self) -> ChannelAffine:
        """e^l, and b e^l."""
        scale = self.log_scale.exp()
        return ChannelAffine(scale, self.shift * scale, self.log_scale.sum())

    def inverse_channel_affine(self) -> ChannelAffine:
        """e^-l, and -b."""
        return ChannelAffine(torch.exp(-self.log_scale), -self.shift, -self.log_scale.sum())

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        if not bool(self.initialized):
            mean, deviation = _moments(x.transpose(0, 1).flatten(1).to(log_det_dtype(x.dtype)))
            if not bool(torch.isfinite(mean).all() & torch.isfinite(deviation).all()):
                raise DomainError("ActNorm: expected finite data to initialise from, got NaN, infinity or overflow.")
            # Rounding makes the variance of a constant channel not quite zero.
            threshold = 8 * torch.finfo(x.dtype).eps * mean.abs()
            if self.floor is not None:
                deviation = deviation.clamp_min(self.floor)
            elif bool((deviation <= threshold).any()):
                channel = int((deviation - threshold).argmin())
                raise DomainError(
                    f"ActNorm: expected channels that vary to initialise from, got channel {channel} constant in x of "
                    f"shape {tuple(x.shape)}. Use a larger batch, dequantise the data, or pass floor=1e-6."
                )
            self.shift.copy_(-mean)
            self.log_scale.copy_(-deviation.log())
            self.initialized.fill_(True)
        self._known_initialized = True

    def _shaped(self, parameter: Tensor, like: Tensor) -> Tensor:
        return parameter.to(like.dtype).view(-1, *(1,) * (like.dim() - 2))

    def _log_det(self, sign: int, like: Tensor) -> Tensor:
        positions = math.prod(like.shape[2:])
        return (sign * positions * self.log_scale.to(log_det_dtype(like.dtype)).sum()).expand(len(like))

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # noqa: ANN002, ANN003
        super()._load_from_state_dict(*args, **kwargs)
        self._known_initialized = not self.initialized.is_meta and bool(self.initialized)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """max e^l and max e^-l."""
        log_scale = self.log_scale.detach().double()
        return LipschitzBounds(outward(float(log_scale.max().exp())), outward(float((-log_scale).max().exp())))

    def image(self, domain: Domain) -> Domain:
        """The boxes shifted and scaled."""
        bounds, shift = self.bounds(), float(self.shift.detach().abs().max())
        (x_norm, y_norm), length = norms_of(domain), constant_norm(domain, shift)
        x_norm, y_norm = y_norm * bounds.inverse + length, (x_norm + length) * bounds.forward
        boxes = domain.y * bounds.inverse + shift, (domain.x + shift) * bounds.forward
        return like(domain, *boxes, x_norm, y_norm)

    def extra_repr(self) -> str:
        """The number of features."""
        return f"{self.features}"


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation along axis 1, (C, N) -> (C,), over the batches of all ranks; two passes."""
    count = torch.full_like(x[:, 0], x.shape[1])
    mean = _over_ranks(x.sum(1)) / _over_ranks(count)
    variance = _over_ranks((x - mean[:, None]).square().sum(1)) / _over_ranks(count)
    return mean, variance.sqrt()


def _over_ranks(x: Tensor) -> Tensor:
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    total = x.clone()
    distributed.all_reduce(total)
    return total
