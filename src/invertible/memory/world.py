"""What a pass sees beside its arguments, and its restoration when the pass is run again."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from invertible.errors import InvertibleError

Random = dict[torch.device, Tensor]


class ChangedParameterError(InvertibleError, RuntimeError):
    """A parameter was modified in place between the forward and the backward pass."""


class Setting:
    """What holds for a whole pass: autocast, and train or eval mode of every module.

    Args:
        modules: all modules that take part.
        devices: where tensors live.
    """

    def __init__(self, modules: Sequence[nn.Module], devices: set[torch.device]) -> None:
        self.devices = devices | {torch.device("cpu")}
        kinds = {device.type for device in self.devices}
        self.autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
        self.cache = torch.is_autocast_cache_enabled()
        inner = {id(child): child for module in modules for child in module.modules()}
        self.modes = [(module, module.training) for module in inner.values()]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Autocast and modes as they were, with grad."""
        other = [module for module, training in self.modes if module.training != training]
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            for kind, enabled, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype, enabled, self.cache))
            for module in other:
                module.training = not module.training
            try:
                yield
            finally:
                for module in other:
                    module.training = not module.training


class World:
    """What one step saw: the random state if it drew, the buffers that it changed, the versions of its parameters.

    Batch normalisation changes its running statistics without a trace in their version; hence a step that is run
    again works on copies of all buffers of modules in training mode, and changes none a second time.

    Args:
        setting: that of the pass.
        modules: the step's.
    """

    __slots__ = ("_before", "_random_before", "buffers", "modules", "parameters", "random", "setting")

    def __init__(self, setting: Setting, modules: Sequence[nn.Module]) -> None:
        self.setting, self.modules = setting, modules
        self.random: Random | None = None
        self.buffers: list[tuple[nn.Module, str, Tensor]] = []
        self.parameters: list[tuple[nn.Parameter, int]] = []

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Around the first run of the step."""
        random = random_state(self.setting.devices)
        held = [(owner, name, buffer, buffer._version, buffer.clone()) for owner, name, buffer in _buffers(self.modules)]
        before = _versions(self.modules)
        yield
        self.parameters = _versions(self.modules)
        if any(not torch.equal(state, random[device]) for device, state in random_state(self.setting.devices).items()):
            self.random = random
        if [version for _, version in before] != [version for _, version in self.parameters]:
            # The step has initialised itself from its input, which it must not do again.
            return
        self.buffers = [
            (owner, name, clone)
            for owner, name, buffer, version, clone in held
            if owner._buffers.get(name) is not buffer or buffer._version != version
        ]

    @contextmanager
    def restored(self, name: str) -> Iterator[None]:
        """Around any further run: the same world, and no traces left.

        Raises:
            ChangedParameterError: if a parameter has changed since.
        """
        for parameter, version in self.parameters:
            if parameter._version != version:
                raise ChangedParameterError(
                    f"{name}: a parameter of shape {tuple(parameter.shape)} was modified in place between the forward "
                    "and the backward pass, so that what was not stored cannot be computed again. Call backward() "
                    "before the optimizer's step, or use memory='store'."
                )
        with self.setting.restored(), _swapped(self.modules, self.buffers), _random(self.random):
            yield


def random_state(devices: set[torch.device]) -> Random:
    """The state of the default generator of every device."""
    return {
        device: torch.get_rng_state()
        if device.type == "cpu"
        else torch.get_device_module(device.type).get_rng_state(device)
        for device in devices
        if device.type != "meta"
    }


def _set_random_state(states: Random) -> None:
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(device.type).set_rng_state(state, device)


@contextmanager
def _random(states: Random | None) -> Iterator[None]:
    if states is None:
        yield
        return
    now = random_state(set(states))
    try:
        _set_random_state(states)
        yield
    finally:
        _set_random_state(now)


def _buffers(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (owner, name, buffer)
        for module in modules
        for owner in module.modules()
        if owner._buffers
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]


def _versions(modules: Sequence[nn.Module]) -> list[tuple[nn.Parameter, int]]:
    return [(parameter, parameter._version) for module in modules for parameter in module.parameters()]


@contextmanager
def _swapped(modules: Sequence[nn.Module], earlier: list[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    now = _buffers(modules)
    replaced = {(id(owner), name): value for owner, name, value in earlier}
    try:
        for owner, name, buffer in now:
            value = replaced.get((id(owner), name), buffer if owner.training else None)
            if value is not None:
                owner._buffers[name] = value.clone()
        yield
    finally:
        for owner, name, buffer in now:
            owner._buffers[name] = buffer
