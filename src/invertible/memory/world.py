"""What a pass sees beside its arguments, and its restoration when the pass is run again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor, nn

from invertible.errors import InvertibleError

Random = dict[torch.device, Tensor]


class ChangedParameterError(InvertibleError, RuntimeError):
    """A parameter was modified in place between the forward and the backward pass."""


class Setting:
    """What holds for a whole pass: its devices and autocast.

    Args:
        devices: where tensors live.
    """

    def __init__(self, devices: set[torch.device]) -> None:
        self.devices = sorted(devices | {torch.device("cpu")}, key=str)
        kinds = {device.type for device in self.devices}
        self.autocast = tuple(_autocast(kind) for kind in sorted(kinds))
        self.cache = torch.is_autocast_cache_enabled()

    def enter(self, stack: ExitStack) -> None:
        """Autocast as it was, where it is another now."""
        for kind, enabled, dtype in self.autocast:
            if _autocast(kind) != (kind, enabled, dtype):
                stack.enter_context(torch.autocast(kind, dtype, enabled, self.cache))


class World:
    """What one step saw: modes, the random state if it drew, buffers that it changed, versions of its parameters.

    Batch normalisation changes its running statistics without a trace in their version; hence a step that is run
    again works on copies of all buffers of modules in training mode, and changes none a second time.

    Args:
        setting: that of the pass.
        modules: the step's.
        name: the step's, for messages.
    """

    __slots__ = ("_held", "_random", "_versions", "buffers", "members", "name", "parameters", "random", "setting")

    def __init__(self, setting: Setting, modules: Sequence[nn.Module], name: str) -> None:
        self.setting, self.name = setting, name
        self.members: list[tuple[nn.Module, bool]] = []
        self.parameters: list[tuple[nn.Parameter, int]] = []
        self.random: Random | None = None
        self.buffers: list[tuple[nn.Module, str, Tensor]] = []
        for module in modules:
            _gather(module, self.members)

    def before(self) -> None:
        """To be called before the first run of the step."""
        self._random = random_state(self.setting.devices)
        self._versions = _versions(self.members)
        self._held = [
            (owner, name, buffer, buffer._version, buffer.clone()) for owner, name, buffer in _buffers(self.members)
        ]

    def after(self) -> None:
        """To be called after it."""
        self.parameters = _versions(self.members)
        held, versions, random = self._held, self._versions, self._random
        del self._held, self._versions, self._random
        if any(not torch.equal(random[device], state) for device, state in random_state(list(random)).items()):
            self.random = random
        if versions != self.parameters:
            # The step has initialised itself from its input, which it must not do again.
            return
        self.buffers = [
            (owner, name, clone)
            for owner, name, buffer, version, clone in held
            if owner._buffers.get(name) is not buffer or buffer._version != version
        ]

    def has_hooks(self) -> bool:
        """Whether a module of the step has hooks on its forward."""
        return any(module._forward_hooks or module._forward_pre_hooks for module, _ in self.members)

    def restored(self) -> Restored:
        """A context for any further run: the same world, with grad, and no traces left.

        Raises:
            ChangedParameterError: on entry, if a parameter has changed since.
        """
        return Restored(self)


class Restored:
    """The context of `World.restored`."""

    __slots__ = ("_attributes", "_buffers", "_grad", "_modes", "_random", "_stack", "world")

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> None:
        world = self.world
        for parameter, version in world.parameters:
            if parameter._version != version:
                raise ChangedParameterError(
                    f"{world.name}: a parameter of shape {tuple(parameter.shape)} was modified in place between the "
                    "forward and the backward pass, so that what was not stored cannot be computed again. Call "
                    "backward() before the optimizer's step, or use memory='store'."
                )
        # A module may keep a tensor of its forward (an auxiliary loss): the first run's, not that of this one.
        self._attributes = [(module, dict(module.__dict__)) for module, _ in world.members]
        self._grad = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        self._stack = ExitStack()
        world.setting.enter(self._stack)
        self._modes = [module for module, training in world.members if module.training is not training]
        for module in self._modes:
            module.training = not module.training
        self._buffers = _buffers(world.members)
        if self._buffers:
            _swap(self._buffers, world.buffers)
        self._random = None
        if world.random is not None:
            self._random = random_state(list(world.random))
            _set_random_state(world.random)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._random is not None:
            _set_random_state(self._random)
        for owner, name, buffer in self._buffers:
            owner._buffers[name] = buffer
        for module in self._modes:
            module.training = not module.training
        for module, attributes in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        self._stack.close()
        torch.set_grad_enabled(self._grad)


def random_state(devices: Sequence[torch.device]) -> Random:
    """The state of the default generator of every device."""
    return {
        device: torch.default_generator.get_state()
        if device.type == "cpu"
        else torch.get_device_module(device.type).get_rng_state(device)
        for device in devices
        if device.type != "meta"
    }


def _set_random_state(states: Random) -> None:
    for device, state in states.items():
        if device.type == "cpu":
            torch.default_generator.set_state(state)
        else:
            torch.get_device_module(device.type).set_rng_state(state, device)


def _autocast(kind: str) -> tuple[str, bool, torch.dtype]:
    return kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def _gather(module: nn.Module, members: list[tuple[nn.Module, bool]]) -> None:
    # Three times as quick as Module.modules(), which a step of small networks feels.
    members.append((module, module.training))
    for child in module._modules.values():
        if child is not None:
            _gather(child, members)


def _buffers(members: list[tuple[nn.Module, bool]]) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (owner, name, buffer)
        for owner, _ in members
        if owner._buffers
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]


def _versions(members: list[tuple[nn.Module, bool]]) -> list[tuple[nn.Parameter, int]]:
    return [
        (parameter, parameter._version)
        for owner, _ in members
        if owner._parameters
        for parameter in owner._parameters.values()
        if parameter is not None
    ]


def _swap(now: list[tuple[nn.Module, str, Tensor]], earlier: list[tuple[nn.Module, str, Tensor]]) -> None:
    replaced = {(id(owner), name): value for owner, name, value in earlier}
    for owner, name, buffer in now:
        value = replaced.get((id(owner), name), buffer if owner.training else None)
        if value is not None:
            owner._buffers[name] = value.clone()
