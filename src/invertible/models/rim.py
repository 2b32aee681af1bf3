"""The recurrent inference machine (Putzky & Welling 2017; Lønning et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.errors import ConfigError, require_positive
from invertible.memory import MemoryOwner, Step, Strategy
from invertible.memory.step import State
from invertible.models.common import described
from invertible.models.readings import Reading, with_readings
from invertible.models.reconstructor import Core, Reconstructor
from invertible.physics.operator import Observation


def rim(
    *,
    image_channels: int = 2,
    hidden: Sequence[int] = (64, 64),
    kernels: Sequence[int] = (5, 3, 3),
    dilations: Sequence[int] = (1, 2, 1),
    recurrent_kernel: int = 1,
    steps: int = 8,
    spatial_dims: int = 2,
    crop: int = 320,
) -> Reconstructor:
    """The RIM as the i-RIM's authors trained it for the fastMRI challenge, their baseline.

    T times: (delta, h) <- network((eta, A^H (A eta - y)), h), eta <- eta + delta, from the backprojection and h = 0.
    The network: convolution, ReLU, convolutional GRU, as often as there are hidden layers, and a last convolution
    without bias. It is no bijection: its training keeps every step's activations, or with
    `set_memory(model, "checkpoint")` the states of some steps. The loss of the paper is the mean over `estimates`.

    Args:
        image_channels: c, channels of an image: 2 for a complex one.
        hidden: channels of each recurrent layer.
        kernels: of the convolutions, one more than hidden layers; odd. Their borders are replicated.
        dilations: of the convolutions.
        recurrent_kernel: of the GRUs' convolutions, odd; 1 recurs pixel by pixel.
        steps: T.
        spatial_dims: 2 for images, 3 for volumes.
        crop: as in `irim`.

    Returns:
        A `Reconstructor`. Parameters: 94,464 by default, as those of the released code.

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> image = rim(image_channels=2)(observation)
    """
    arguments = dict(locals())
    require_positive("models.rim", image_channels=image_channels, steps=steps)
    layers = len(hidden) + 1
    if not hidden or len(kernels) != layers or len(dilations) != layers or spatial_dims not in (2, 3):
        raise ConfigError(
            f"models.rim: expected a kernel and a dilation more than hidden layers, and spatial_dims of 2 or 3, got "
            f"hidden={tuple(hidden)}, kernels={tuple(kernels)}, dilations={tuple(dilations)}, {spatial_dims}."
        )
    if any(size % 2 == 0 for size in (*kernels, recurrent_kernel)):
        raise ConfigError(f"models.rim: expected odd kernels, got {tuple(kernels)} and {recurrent_kernel}.")
    widths = (2 * image_channels, *hidden, image_channels)
    convolutions = [
        _convolution(widths[i], widths[i + 1], kernels[i], dilations[i], spatial_dims, last=i == len(hidden))
        for i in range(layers)
    ]
    cells = [ConvGRUCell(width, width, recurrent_kernel, spatial_dims) for width in hidden]
    core = RecurrentInferenceMachine(RecurrentNetwork(convolutions, cells), steps)
    return described(
        "rim", arguments, Reconstructor(core, image_channels=image_channels, spatial_dims=spatial_dims, crop=crop)
    )


class ConvGRUCell(nn.Module):
    """h <- (1 - z) h + z n, the gated recurrent unit (Cho et al. 2014) with convolutions for matrices.

    z = sigmoid(W_z x + U_z h), r = sigmoid(W_r x + U_r h), n = tanh(W_n x + r U_n h), biases in W and U; weights start
    orthogonal.

    Args:
        in_channels: of x.
        channels: of h.
        kernel: of the convolutions, odd.
        spatial_dims: 2 or 3.

    Shapes:
        x: (B, in_channels, *spatial), h: (B, channels, *spatial).
    """

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, spatial_dims: int = 2) -> None:
        super().__init__()
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.channels = channels
        self.of_input = kind(in_channels, 3 * channels, kernel, padding=kernel // 2)
        self.of_state = kind(channels, 3 * channels, kernel, padding=kernel // 2)
        for convolution in (self.of_input, self.of_state):
            nn.init.orthogonal_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """The next h."""
        (xz, xr, xn), (hz, hr, hn) = self.of_input(x).chunk(3, 1), self.of_state(h).chunk(3, 1)
        new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        # Under autocast convolutions are of half precision; the state stays as precise as it is.
        return torch.lerp(h, new.to(h.dtype), torch.sigmoid(xz + hz).to(h.dtype))


class RecurrentNetwork(nn.Module):
    """Convolutions with ReLU, a recurrent cell behind each, and a last convolution.

    Args:
        convolutions: one more than cells.
        cells: the recurrent cells.
    """

    def __init__(self, convolutions: Sequence[nn.Module], cells: Sequence[ConvGRUCell]) -> None:
        super().__init__()
        self.convolutions, self.cells = nn.ModuleList(convolutions), nn.ModuleList(cells)

    def forward(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(B, C, *spatial) and the states of the cells: the result, and the next states."""
        found: list[Tensor] = []
        for convolution, cell, h in zip(self.convolutions, self.cells, states, strict=False):
            x = cell(functional.relu(convolution(x)), h)
            found.append(x)
        return self.convolutions[-1](x), found

    def start(self, image: Tensor) -> list[Tensor]:
        """States of zeros."""
        sizes = [int(cell.channels) for cell in self.cells]  # pyright: ignore[reportArgumentType]
        return [image.new_zeros(len(image), size, *image.shape[2:]) for size in sizes]


class InferenceStep(Step):
    """eta <- eta + delta on one observation; the state is (eta, h_1, h_2, ...). It has no inverse.

    Args:
        network: maps (eta, gradient) and the states to delta and the next states.
        observation: y and A.
        backprojection: A^H y.
    """

    invertible = False

    def __init__(self, network: RecurrentNetwork, observation: Observation, backprojection: Tensor) -> None:
        self.name, self.modules = "RecurrentInferenceMachine", (network, observation.operator)
        self.network, self.operator, self.backprojection = network, observation.operator, backprojection

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """One step."""
        estimate, *hidden = state
        gradient = (self.operator.normal(estimate) - self.backprojection).to(estimate.dtype)
        delta, hidden = self.network(torch.cat((estimate, gradient), 1), hidden)
        return (estimate + delta, *hidden), None


class RecurrentInferenceMachine(MemoryOwner, Core):
    """T steps of one recurrent network from the backprojection.

    Args:
        network: of every step.
        steps: T.
        memory: how activations are kept, as `Chain` takes it; there is no inverse to rebuild them by, so `"reversible"`
            keeps the states between the steps.
    """

    def __init__(self, network: RecurrentNetwork, steps: int, memory: str | Strategy = "store") -> None:
        super().__init__()
        self.blocks, self.count = nn.ModuleList([network]), steps
        self.memory = memory

    def estimates(self, observation: Observation, image: Tensor, *, every: bool) -> list[Tensor]:
        """The estimates of all steps, or the last one."""
        network = self.blocks[0]
        assert isinstance(network, RecurrentNetwork)
        step = InferenceStep(network, observation, image)
        steps: list[Step] = [step] * self.count
        if every:
            steps = list(with_readings([[step]] * self.count, Reading(torch.clone)))
        state, _ = self.memory.run(steps, (image, *network.start(image)), None, self.memory_log)
        return list(state[-self.count :]) if every else [state[0]]

    def extra_repr(self) -> str:
        """Number of steps."""
        return f"steps={self.count}"


def _convolution(
    channels: int, out: int, kernel: int, dilation: int, spatial_dims: int, *, last: bool = False
) -> nn.Module:
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    made = kind(
        channels,
        out,
        kernel,
        dilation=dilation,
        padding=dilation * (kernel - 1) // 2,
        padding_mode="replicate",
        bias=not last,
    )
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made
