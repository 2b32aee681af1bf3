"""Networks of which some layers are bijections and others are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.chain import Chain
from invertible.errors import ConfigError, NotInvertibleError
from invertible.fusion import run_forward, run_inverse, runs, steps_of
from invertible.memory import MemoryOwner, Step, Strategy
from invertible.module_step import KeptStep, has_inverse, module_step

# Consecutive bijections, or one other module.
Group = list[Bijection] | nn.Module


class Sequential(MemoryOwner):
    """Modules in a row, y = f_n(... f_2(f_1(x))), whose activations a strategy of `invertible.memory` keeps.

    As `torch.nn.Sequential`, but for the memory: members that are bijections are rebuilt from their output, and of the
    others (a strided convolution, the stem of a classifier) the input is kept and they are run again. So a RevNet keeps
    what lies at the borders of its stages and nothing else (Gomez et al. 2017, section 3.2), and an ordinary network
    can be checkpointed. Log-determinants are not computed: `Chain` has them, and takes bijections only.

    Args:
        *members: modules of one input and one output. A module that is no `Bijection` but has a method
            `inverse(y) -> x`, such as `ChannelPadding`, is inverted by it.
        keep_input: keep the input of this sequence and run all of it again from there, although it may have an inverse:
            for a few layers whose inverse is ill-conditioned, within another sequence, and a pass that may not depend
            on it.
        memory: how activations are kept, as `Chain` takes it: `"store"`, `"checkpoint"`, `"recursive"`,
            `"reversible"`, `"exact"`, a budget such as `"512MiB"`, or a strategy.

    Attributes:
        memory: the strategy; assign one, or use `set_memory` on a model.

    Shapes:
        x and y as the first and the last member have them.

    Raises:
        ConfigError: if a member is no module, or takes a condition.

    Example:
        >>> net = Sequential(nn.Conv2d(3, 32, 3, padding=1), ReversibleResidual(f, g), nn.AvgPool2d(2))
        >>> set_memory(net, "reversible")
    """

    def __init__(self, *members: nn.Module, memory: str | Strategy = "store", keep_input: bool = False) -> None:
        super().__init__()
        for index, member in enumerate(members):
            if not isinstance(member, nn.Module):
                raise ConfigError(
                    f"Sequential: expected member {index} to be a torch.nn.Module, got {type(member).__name__}. Wrap a "
                    "function in a module with a forward."
                )
            if isinstance(member, Bijection) and member.condition_features:
                raise ConfigError(
                    f"Sequential: expected members without condition, got {type(member).__name__} with "
                    f"condition_features={member.condition_features} at {index}. Put it into a Chain."
                )
        self.blocks = nn.ModuleList(members)
        self.memory, self.keep_input = memory, keep_input

    def forward(self, x: Tensor) -> Tensor:
        """Apply the members in order."""
        if self.memory.applies():
            return self.memory.run(self.steps(), (x,), None, self.memory_log)[0][0]
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        for group in self._groups():
            x = run_forward(group, x, None)[0] if isinstance(group, list) else group(x)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """Apply the members' inverses, the last one first.

        Raises:
            NotInvertibleError: naming the member that has none.
        """
        for index, member in enumerate(self.blocks):
            if not _has_inverse(member):
                raise NotInvertibleError(
                    f"Sequential.inverse: member {index}, {type(member).__name__}, has no inverse: it loses "
                    "information. Only the bijections behind it can be inverted: slice them out.",
                    block=type(member).__name__,
                )
        for group in reversed(self._groups()):
            y = run_inverse(group[::-1], y, None)[0] if isinstance(group, list) else group.inverse(y)  # pyright: ignore[reportCallIssue]
        return y

    @property
    def invertible(self) -> bool:
        """Whether every member has an inverse; then so has this."""
        return all(_has_inverse(member) for member in self.blocks)

    @property
    def bijection(self) -> Chain | None:
        """The same map as a `Chain`, with a log-determinant, for all of `stability`; `None` if a block is no bijection.

        Blocks and parameters are shared. Evaluate it in eval mode where blocks hold batch normalisations.
        """
        blocks: list[Bijection] = []
        for block in self.blocks:
            found = block.bijection if isinstance(block, Sequential) else block
            if not isinstance(found, Bijection):
                return None
            blocks += list(found) if isinstance(found, Chain) else [found]
        return Chain(*blocks)

    def steps(self) -> list[Step]:
        """The members' steps: those of bijections, and one for every other module; one in all with `keep_input`."""
        if self.keep_input:
            return [KeptStep(self, self._run)]
        return [
            step for group in self._groups() for step in (steps_of(group) if isinstance(group, list) else _steps(group))
        ]

    def _groups(self) -> list[Group]:
        found: list[Group] = []
        waiting: list[Bijection] = []
        for member in self.blocks:
            if isinstance(member, Bijection):
                waiting.append(member)
                continue
            found += [*runs(waiting), member]
            waiting = []
        return [*found, *runs(waiting)]

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> nn.Module | Sequential:
        """Member `index`, or the sequence of a slice; parameters are shared."""
        if isinstance(index, slice):
            return Sequential(*list(self.blocks)[index], memory=self.memory, keep_input=self.keep_input)
        return self.blocks[index]


def _steps(member: nn.Module) -> list[Step]:
    return member.steps() if isinstance(member, Sequential) else [module_step(member)]


def _has_inverse(member: nn.Module) -> bool:
    return member.invertible if isinstance(member, Sequential) else has_inverse(member)
