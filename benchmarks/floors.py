"""Floors: how fast a plain, correct PyTorch version of each architecture runs, with nothing around it.

No checks, no options, no conditions, no log-determinant in the inverse. Run as a script, it checks every floor's
round trip and log-determinant against autograd.
"""

import math

import torch
from torch import nn
from torch.nn import functional

LOG_2_PI = math.log(2 * math.pi)
CLAMP = 2.0


def normal_log_prob(z):
    """log N(z; 0, I): (B, ...) -> (B,)."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * LOG_2_PI)


def log_scale(raw):
    """Smooth clamp to (-2, 2): the logarithm of RealNVP's scale."""
    return CLAMP * torch.tanh(raw * (1 / CLAMP))


def half_sigmoid(raw):
    """(1 + sigmoid(r + 2))/2: Glow's scale."""
    return torch.sigmoid(raw + 2) * 0.5 + 0.5


def mlp(inputs, outputs, hidden):
    """Linear, ReLU, linear, ReLU, linear; the last layer zero."""
    last = nn.Linear(hidden, outputs)
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(True), nn.Linear(hidden, hidden), nn.ReLU(True), _zero(last)
    )


def convnet(inputs, outputs, hidden):
    """Convolutions 3 x 3, 1 x 1, 3 x 3 with ReLU between; the last layer zero."""
    first, last = nn.Conv2d(inputs, hidden, 3, padding=1), nn.Conv2d(hidden, outputs, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(True), nn.Conv2d(hidden, hidden, 1), nn.ReLU(True), _zero(last))


def _zero(layer):
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Floor(nn.Module):
    """Forward gives (z, log_det), inverse gives x."""

    def log_prob(self, x):
        """log N(f(x)) + log|det df/dx|, shape (B,)."""
        z, log_det = self(x)
        return normal_log_prob(z) + log_det


class RealNVPFloor(Floor):
    """Affine couplings whose halves stay apart: no gather, no permutation, one concatenation and one sum at the end."""

    def __init__(self, features, layers, hidden):
        super().__init__()
        half = features // 2
        self.nets = nn.ModuleList(mlp(half, 2 * half, hidden) for _ in range(layers))

    def forward(self, x):
        """Data to latent: (B, D) -> (B, D), (B,)."""
        passive, active = x.chunk(2, 1)
        total = 0.0
        for net in self.nets:
            raw, shift = net(passive).chunk(2, 1)
            slope = log_scale(raw)
            passive, active = torch.addcmul(shift, active, slope.exp()), passive
            total = total + slope
        return torch.cat((passive, active), 1), total.sum(1)

    def inverse(self, z):
        """Latent to data."""
        passive, active = z.chunk(2, 1)
        for net in reversed(self.nets):
            passive, active = active, passive
            raw, shift = net(passive).chunk(2, 1)
            active = (active - shift) * torch.exp(-log_scale(raw))
        return torch.cat((passive, active), 1)


class SplineFloor(Floor):
    """Rational-quadratic spline couplings with parameters (B, 3K - 1, D/2), bins first."""

    def __init__(self, features, layers, hidden, bins=8, bound=5.0):
        super().__init__()
        self.half, self.bins, self.bound = features // 2, bins, bound
        self.nets = nn.ModuleList(mlp(self.half, self.half * (3 * bins - 1), hidden) for _ in range(layers))

    def forward(self, x):
        """Data to latent."""
        passive, active = x.chunk(2, 1)
        total = 0.0
        for net in self.nets:
            y, slope = self._spline(active, net(passive), inverse=False)
            passive, active, total = y, passive, total + slope
        return torch.cat((passive, active), 1), total.sum(1)

    def inverse(self, z):
        """Latent to data."""
        passive, active = z.chunk(2, 1)
        for net in reversed(self.nets):
            passive, active = active, passive
            active = self._spline(active, net(passive), inverse=True)
        return torch.cat((passive, active), 1)

    def _spline(self, x, parameters, *, inverse, least=1e-3):
        bins, bound = self.bins, self.bound
        parameters = parameters.unflatten(1, (3 * bins - 1, self.half))
        inside = x.abs() < bound
        value = torch.where(inside, x, 0.0)
        shares = parameters[:, : 2 * bins].unflatten(1, (2, bins)).softmax(2)
        sizes = shares * ((1 - least * bins) * 2 * bound) + least * 2 * bound
        knots = sizes[:, :, :-1].cumsum(2) - bound
        index = (value.unsqueeze(1) >= knots[:, 1 if inverse else 0]).sum(1, keepdim=True)
        both = index.unsqueeze(1).expand(-1, 2, -1, -1)
        width, height = sizes.gather(2, both).squeeze(2).unbind(1)
        left, bottom = functional.pad(knots, (0, 0, 1, 0), value=-bound).gather(2, both).squeeze(2).unbind(1)
        ends = functional.pad(parameters[:, 2 * bins :], (0, 0, 1, 1), value=math.log(math.e - 1))
        first, second = functional.softplus(ends.gather(1, torch.cat((index, index + 1), 1))).unbind(1)
        slope = height / width
        bend = first + second - 2 * slope
        if inverse:
            rise = value - bottom
            a, b = height * (slope - first) + rise * bend, height * first - rise * bend
            root = (b * b + 4 * a * slope * rise).clamp_min(0).sqrt()
            return torch.where(inside, 2 * slope * rise / (b + root) * width + left, x)
        theta = (value - left) / width
        product = theta * (1 - theta)
        denominator = slope + bend * product
        y = bottom + height * (slope * theta * theta + first * product) / denominator
        numerator = second * theta * theta + 2 * slope * product + first * (1 - theta).square()
        log_slope = torch.log(slope * slope * numerator / (denominator * denominator))
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


class GlowStep(nn.Module):
    """ActNorm and a 1 x 1 convolution P L U folded into one convolution, then an affine coupling."""

    def __init__(self, channels, hidden):
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", upper.diag().sign())
        self.register_buffer("identity", torch.eye(channels))
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diag().abs().log())
        self.log_scale, self.bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.net = convnet(channels // 2, channels, hidden)

    def _factors(self):
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return self.lower.tril(-1) + self.identity, upper

    def forward(self, x):
        """Data to latent: (B, C, H, W) -> (B, C, H, W), (B,)."""
        lower, upper = self._factors()
        weight = self.permutation @ (lower @ upper) * self.log_scale.exp()
        passive, active = functional.conv2d(x, weight[..., None, None], weight @ self.bias).chunk(2, 1)
        raw, shift = self.net(passive).chunk(2, 1)
        scale = half_sigmoid(raw)
        y = torch.cat((passive, (active + shift) * scale), 1)
        constant = (self.log_scale.sum() + self.log_diagonal.sum()) * (x.shape[2] * x.shape[3])
        return y, scale.log().sum((1, 2, 3)) + constant

    def inverse(self, y):
        """Latent to data."""
        passive, active = y.chunk(2, 1)
        raw, shift = self.net(passive).chunk(2, 1)
        x = torch.cat((passive, active / half_sigmoid(raw) - shift), 1)
        lower, upper = self._factors()
        half = torch.linalg.solve_triangular(lower, self.permutation.T, upper=False, unitriangular=True)
        weight = torch.linalg.solve_triangular(upper, half, upper=True) * torch.exp(-self.log_scale)[:, None]
        return functional.conv2d(x, weight[..., None, None], -self.bias)


class GlowFloor(Floor):
    """Multi-scale Glow, channels last, as CPU convolutions want it; the latents of all levels are one vector."""

    def __init__(self, shape, levels, depth, hidden):
        super().__init__()
        self.shape = shape
        sizes = [4 * shape[0] * 2**level for level in range(levels)]
        self.levels = nn.ModuleList(nn.ModuleList(GlowStep(c, hidden) for _ in range(depth)) for c in sizes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Data to latent: (B, C, H, W) -> (B, C H W), (B,)."""
        latents, total = [], 0.0
        for level, steps in enumerate(self.levels):
            x = functional.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
            for step in steps:
                x, log_det = step(x)
                total = total + log_det
            if level < len(self.levels) - 1:
                x, out = x.chunk(2, 1)
                latents.append(out.flatten(1))
        return torch.cat((*latents, x.flatten(1)), 1), total

    def inverse(self, z):
        """Latent to data."""
        (channels, height, width), last = self.shape, len(self.levels) - 1
        sizes = [channels * height * width // 2 ** (level + 1) for level in range(last)]
        *latents, x = z.split((*sizes, z.shape[1] - sum(sizes)), 1)
        x = x.reshape(len(z), -1, height >> (last + 1), width >> (last + 1))
        for level in range(last, -1, -1):
            if level < last:
                x = torch.cat((x, latents[level].reshape(x.shape)), 1)
            x = x.contiguous(memory_format=torch.channels_last)
            for step in reversed(self.levels[level]):
                x = step.inverse(x)
            x = functional.pixel_shuffle(x, 2)
        return x


def self_test():
    """Round trip and log-determinant of every floor with random parameters, in float64."""
    torch.manual_seed(0)
    cases = [
        (RealNVPFloor(6, 4, 16), (6,)),
        (SplineFloor(6, 4, 16), (6,)),
        (GlowFloor((2, 8, 8), 2, 2, 8), (2, 8, 8)),
    ]
    for floor, shape in cases:
        floor.double().requires_grad_(False)
        for parameter in floor.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x = 2 * torch.randn(3, *shape, dtype=torch.float64)
        z, log_det = floor(x)
        jacobian = torch.autograd.functional.jacobian(lambda v, f=floor: f(v[None])[0].flatten(), x[0])
        reference = torch.linalg.slogdet(jacobian.reshape(z[0].numel(), -1))[1]
        errors = (float((floor.inverse(z) - x).abs().max()), float((log_det[0] - reference).abs()))
        print(f"{type(floor).__name__:13} round trip {errors[0]:.1e}  log-det against autograd {errors[1]:.1e}")
        if not max(errors) < 1e-9:
            raise SystemExit(f"{type(floor).__name__}: expected errors below 1e-9, got {errors}.")


if __name__ == "__main__":
    self_test()
