"""The invertible recurrent inference machine (Putzky & Welling 2019, "Invert to Learn to Invert")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from invertible.blocks.gated_convnet import Factor, GatedConvNet, gated_convnet
from invertible.blocks.orthogonal_coupling import OrthogonalCoupling
from invertible.errors import ConfigError, choose, require_positive
from invertible.models.common import described
from invertible.models.inference_machine import InvertibleInferenceMachine
from invertible.models.reconstructor import Core, Reconstructor, checked_context
from invertible.physics.operator import Observation

CHALLENGE_HIDDEN = (64, 64, 128, 128, 256, 1024, 1024, 256, 128, 128, 64, 64)
CHALLENGE_FACTORS = (1, 1, 2, 2, 4, 8, 8, 4, 2, 2, 1, 1)


@dataclass(frozen=True)
class Configuration:
    """What decides an i-RIM; the arguments of `irim` say what each is."""

    image_channels: int
    channels: int
    hidden: tuple[int, ...]
    factors: tuple[Factor, ...]
    steps: int
    multiplicity: int = 1
    context_features: int = 0
    coupled: tuple[int, ...] | None = None
    output_channels: int = 0


PRESETS = {
    "single-coil": Configuration(2, 64, CHALLENGE_HIDDEN, CHALLENGE_FACTORS, 8, 4, 8, output_channels=2),
    "multi-coil": Configuration(30, 96, CHALLENGE_HIDDEN, CHALLENGE_FACTORS, 8, 1, 8, output_channels=2),
    "denoising": Configuration(3, 16, (16,) * 5, (1, 2, 4, 2, 1), 5, coupled=(16, 8, 4, 8, 16)),
    "small": Configuration(2, 16, (16, 32, 64, 32, 16), (1, 2, 4, 2, 1), 4),
}


def irim(
    preset: str = "small",
    *,
    image_channels: int | None = None,
    channels: int | None = None,
    hidden: Sequence[int] | None = None,
    factors: Sequence[Factor] | None = None,
    steps: int | None = None,
    multiplicity: int | None = None,
    context_features: int | None = None,
    coupled: Sequence[int] | None = None,
    output_channels: int | None = None,
    tied: bool = False,
    reflections: int = 3,
    spatial_dims: int = 2,
    crop: int = 320,
) -> Reconstructor:
    """The i-RIM: T invertible networks on a state of estimates and memory, with the data's gradient between them.

    s = (eta, gradients, memory), eta the backprojection at the start and all else zero; s <- I(s), and T times
    s <- I(U_t(s)), I the injection of A^H (A eta - y) into the channels behind eta (`GradientInjection`); U_t a chain
    of `OrthogonalCoupling` with `GatedConvNet`. The estimate is eta at the end. All of it but the output is invertible:
    `set_memory(model, "reversible")` trains it in the memory of one layer, as the paper does.

    Departs from the paper's code in three places. Images whose size the factors do not divide are padded inside G,
    where that leaves the rest without an update. Deviations have no slack of 1e-6, so that scaling the data scales the
    result. Without an output network it reads the imaginary part of the estimate off the middle of the state; here it
    is behind the real part.

    Args:
        preset: `"single-coil"` and `"multi-coil"` (15 coils), those of the fastMRI challenge; `"denoising"`, the code's
            example; `"small"`, which trains on a CPU in minutes. Arguments below take the place of its own.
        image_channels: c, channels of an image: 2 for a complex one, 2 coils for coil images.
        channels: C, of the state, at least 2 m c + context_features.
        hidden: h of each layer, channels inside its residual function.
        factors: d of each layer, by which its residual function downsamples: an integer, or one for each axis; with
            three axes an integer leaves the slices as they are.
        steps: T.
        multiplicity: m, number of estimates in the state, all of which start as the backprojection; the first is read.
        context_features: k, width of the observation's context, which the last k channels hold at the start. With 0
            a context is not looked at.
        coupled: channels of each layer that take part in its coupling; all if `None`.
        output_channels: of an output network on the whole state, in place of reading the estimate; 0 for none. 2 in
            both challenge models: one complex image, for many coils, too.
        tied: one network for all steps.
        reflections: Householder reflections of each layer.
        spatial_dims: 2 for images, 3 for volumes.
        crop: height and width, at most, of the centre by whose deviation the data are scaled.

    Returns:
        A `Reconstructor`; its `core.machine.chain(observation)` is the invertible part as a `Chain`. Parameters:
        275,206,144 + 41,408 of the output network (single-coil), 329,577,472 + 92,832 (multi-coil), 80,000 (denoising).

    Raises:
        ConfigError: naming the argument.

    Example:
        >>> model = irim("small", image_channels=2, steps=4)
        >>> set_memory(model, "reversible")
        >>> image = model(observation)
    """
    arguments = dict(locals())
    chosen = _chosen(arguments)
    _check(chosen, spatial_dims)
    require_positive("models.irim", reflections=reflections)
    networks = [_network(chosen, reflections, spatial_dims) for _ in range(1 if tied else chosen.steps)]
    machine = InvertibleInferenceMachine(
        networks,
        steps=chosen.steps,
        image_channels=chosen.image_channels,
        multiplicity=chosen.multiplicity,
    )
    core = InvertibleRIM(machine, chosen.channels, chosen.context_features, _output(chosen, spatial_dims))
    return described(
        "irim",
        arguments,
        Reconstructor(core, image_channels=chosen.image_channels, spatial_dims=spatial_dims, crop=crop),
    )


class InvertibleRIM(Core):
    """The machine, what it starts from, and how the estimate is read off.

    Args:
        machine: the recurrence.
        channels: C, of its state.
        context_features: k, width of the context.
        output: a network of the state that makes the estimate; `None` to read it off.
    """

    def __init__(
        self, machine: InvertibleInferenceMachine, channels: int, context_features: int, output: nn.Module | None
    ) -> None:
        super().__init__()
        self.machine, self.channels, self.context_features, self.output = machine, channels, context_features, output

    def estimates(self, observation: Observation, image: Tensor, *, every: bool) -> list[Tensor]:
        """The estimates of all steps, or the last one."""
        state = self.start(observation, image)
        if every:
            modules = () if self.output is None else (self.output,)
            return self.machine.readings(state, observation, self.read, modules)
        return [self.read(self.machine(state, observation))]

    def start(self, observation: Observation, image: Tensor) -> Tensor:
        """The state before the first injection, (B, C, *spatial).

        Raises:
            ShapeError: if the observation's context is of another width.
        """
        context = checked_context("models.irim", observation, self.context_features)
        copies = image.repeat(1, self.machine.multiplicity, *(1,) * (image.dim() - 2))
        state = functional.pad(copies, (*(0, 0) * (image.dim() - 2), 0, self.channels - copies.shape[1]))
        if context is not None:
            state[:, -self.context_features :] = context.view(*context.shape, *(1,) * (image.dim() - 2))
        return state

    def read(self, state: Tensor) -> Tensor:
        """The first estimate of the state, or what the output network makes of it."""
        return state[:, : self.machine.image_channels].clone() if self.output is None else self.output(state)


def _chosen(arguments: dict[str, Any]) -> Configuration:
    base = choose("models.irim", "preset", arguments["preset"], PRESETS)
    given = {field.name: arguments[field.name] for field in fields(Configuration)}
    given = {name: tuple(value) if isinstance(value, Sequence) else value for name, value in given.items()}
    if given["hidden"] is not None and given["coupled"] is None:
        base = replace(base, coupled=None)
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _check(chosen: Configuration, spatial_dims: int) -> None:
    numbers = {name: getattr(chosen, name) for name in ("image_channels", "channels", "steps", "multiplicity")}
    require_positive("models.irim", **numbers)
    if spatial_dims not in (2, 3):
        raise ConfigError(f"models.irim: expected spatial_dims of 2 or 3, got {spatial_dims}.")
    least = 2 * chosen.multiplicity * chosen.image_channels + chosen.context_features
    if chosen.channels < least or chosen.context_features < 0 or chosen.output_channels < 0:
        raise ConfigError(
            f"models.irim: expected channels of at least {least}, for {chosen.multiplicity} estimates of "
            f"{chosen.image_channels} channels, their gradients and {chosen.context_features} features of the context, "
            f"got channels={chosen.channels}, output_channels={chosen.output_channels}."
        )
    layers = {len(chosen.hidden), len(chosen.factors)} | ({len(chosen.coupled)} if chosen.coupled else set())
    if len(layers) > 1 or not chosen.hidden:
        raise ConfigError(
            f"models.irim: expected hidden, factors and coupled of one length, one for each layer, got "
            f"hidden={chosen.hidden}, factors={chosen.factors}, coupled={chosen.coupled}."
        )


def _network(chosen: Configuration, reflections: int, spatial_dims: int) -> list[OrthogonalCoupling]:
    coupled = chosen.coupled or (chosen.channels,) * len(chosen.hidden)
    return [
        OrthogonalCoupling(
            chosen.channels, gated_convnet(hidden, factor, spatial_dims), reflections=reflections, coupled=count
        )
        for hidden, factor, count in zip(chosen.hidden, chosen.factors, coupled, strict=True)
    ]


def _output(chosen: Configuration, spatial_dims: int) -> nn.Module | None:
    if not chosen.output_channels:
        return None
    channels = chosen.channels
    return GatedConvNet(channels, chosen.output_channels, channels, spatial_dims=spatial_dims, gated=False)
