"""The tensors that autograd saves during a step, kept as numbers instead of tensors.

`torch.autograd.graph.saved_tensors_hooks` replaces what an operation saves for its backward by what `pack` returns. A
ledger returns numbers, so nothing is held; when the backward asks for a number, the step is run again and its tensors
are put under the same numbers. The graph is the true one throughout: `autograd.grad`, double backward, frozen
parameters, hooks and distributed wrappers see what they always see.
"""

from collections.abc import Callable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Parameter

from invertible.errors import InvertibleError
from invertible.memory.world import ChangedParameterError


class ReplayError(InvertibleError, RuntimeError):
    """A step that was run again did not do what it did the first time."""


class Saved:
    """Tensors saved by a run of a step, in order, by number; parameters are left out.

    Attributes:
        slots: the tensors by number, as far as they are held.
        versions: of the tensors when they were saved, by number.
        count: how many were saved.
        signature: a hash of their shapes and dtypes.
        is_open: whether the run is still on.
    """

    __slots__ = ("count", "is_open", "signature", "slots", "versions")

    def __init__(self) -> None:
        self.is_open = True
        self.slots: dict[int, Tensor] = {}
        self.versions: list[int] = []
        self.count, self.signature = 0, 0

    def number(self, tensor: Tensor) -> int | None:
        """Take a tensor in and return its number, `None` for a parameter."""
        if is_parameter(tensor):
            return None
        number = self.count
        self.slots[number] = tensor.detach()
        self.versions.append(tensor._version)
        self.count += 1
        self.signature = hash((self.signature, tensor.shape, tensor.dtype))
        return number

    def pack(self, tensor: Tensor) -> int | Tensor:
        """Hook for a throwaway graph."""
        number = self.number(tensor)
        return tensor.detach() if number is None else number

    def unpack(self, packed: int | Tensor) -> Tensor:
        """What an autograd call inside the step asks for.

        Raises:
            ReplayError: if it comes after the run: from a tensor that a hook has kept.
        """
        if not self.is_open:
            raise ReplayError(
                "memory: a gradient was asked for through a tensor of a recomputation, which a hook on an inner module "
                "must have kept in the backward pass. Keep what the hook sees in the forward pass alone."
            )
        return packed if isinstance(packed, Tensor) else self.slots[packed]

    def fits(self, other: "Saved") -> bool:
        """Whether both hold as many tensors of the same shapes and dtypes."""
        return self.count == other.count and self.signature == other.signature


class Ledger(Saved):
    """What the true graph of a step has saved: numbers, filled again when the backward asks for them.

    Args:
        name: of the step, for messages.
    """

    __slots__ = ("name", "stays")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.stays = name, False

    def pack(self, tensor: Tensor) -> int | tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Hook of the true graph."""
        number = self.number(tensor)
        # Detached, for a tensor that holds its own graph would never be freed.
        return (tensor.detach(), tensor._version) if number is None else number

    def take(self, packed: int | tuple[Tensor, int], refill: Callable[[], None]) -> Tensor:
        """What the true graph asks for: a parameter itself, or the tensor of a number."""
        if isinstance(packed, tuple):
            parameter, version = packed
            if parameter._version != version:
                raise ChangedParameterError(
                    f"{self.name}: a parameter of shape {tuple(parameter.shape)} was modified in place between the "
                    "forward and the backward pass. Call backward() before the optimizer's step."
                )
            return parameter
        if self.is_open:
            # The step differentiates itself on its way, as a divergence does; or its tensors stay.
            return self._unchanged(packed, self.slots[packed])
        if packed not in self.slots:
            refill()
        # Given away, so that the backward of a step frees its tensors as it goes.
        return self._unchanged(packed, self.slots.pop(packed))

    def put(self, saved: Saved) -> None:
        """Take over what a replay has saved."""
        self.slots, self.versions = saved.slots, saved.versions

    def _unchanged(self, number: int, tensor: Tensor) -> Tensor:
        if tensor._version != self.versions[number]:
            raise RuntimeError(
                f"{self.name}: a tensor of shape {tuple(tensor.shape)} that is needed for the gradient was modified "
                "in place after it had been used. Use the out-of-place operation."
            )
        return tensor

    def close(self) -> None:
        """End the first run: its tensors are given up, unless they are to stay."""
        self.is_open = self.stays
        if not self.stays:
            self.slots, self.versions = {}, []

    def keep_all(self) -> None:
        """Let the tensors of the first run stay: nothing will give them again."""
        self.stays = True

    def drop(self) -> None:
        """Forget what was filled and never asked for."""
        if not self.stays:
            self.slots = {}


def is_parameter(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter or a view of one: those stay where they are, and need not be held."""
    if type(tensor) is Parameter:
        return True
    base = tensor._base
    return isinstance(base, Parameter) if base is not None else isinstance(tensor, Parameter)


def saving(saved: Saved) -> saved_tensors_hooks:
    """A context in which everything that autograd saves goes to `saved`."""
    return saved_tensors_hooks(saved.pack, saved.unpack)
