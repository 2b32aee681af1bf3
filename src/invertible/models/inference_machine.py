"""The invertible recurrence of the i-RIM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.blocks.gradient_injection import GradientInjection
from invertible.chain import Chain
from invertible.errors import ConfigError, require_positive
from invertible.memory import MemoryOwner, Strategy
from invertible.models.readings import Reading, with_readings
from invertible.physics.operator import Observation


class InvertibleInferenceMachine(MemoryOwner):
    """s <- I(s); for t = 1 .. T: s <- I(U_t(s)), with I the injection of the gradient (Putzky & Welling 2019).

    s holds m estimates of c channels, as many channels for their gradients, and the rest of the memory; see
    `GradientInjection`. The inverse of the whole undoes the networks in reverse order, U_T first, tied or not.

    With `memory="reversible"` a training step keeps one state, whatever T and the number of layers are. The machine has
    one strategy for all of its steps.

    Args:
        networks: the blocks of U_1, ..., U_T, bijections of the state; or those of one network, for all steps.
        steps: T.
        image_channels: c.
        multiplicity: m.
        memory: how activations are kept, as `Chain` takes it.

    Shapes:
        s: (B, C, *spatial) with C >= 2 m c.

    Raises:
        ConfigError: if there are neither T networks nor one, or a number is not positive.

    Example:
        >>> machine = InvertibleInferenceMachine([[layer, layer2], [layer3, layer4]], steps=2, image_channels=2)
        >>> chain = machine.chain(observation)
        >>> state, _ = chain.inverse(machine(state, observation))
    """

    def __init__(
        self,
        networks: Sequence[Sequence[Bijection]],
        *,
        steps: int,
        image_channels: int,
        multiplicity: int = 1,
        memory: str | Strategy = "store",
    ) -> None:
        super().__init__()
        require_positive("InvertibleInferenceMachine", steps=steps)
        if len(networks) not in (1, steps):
            raise ConfigError(
                f"InvertibleInferenceMachine: expected a network for each of {steps} steps, or one for all, got "
                f"{len(networks)}."
            )
        self.blocks = nn.ModuleList(nn.ModuleList(network) for network in networks)
        self.count, self.image_channels, self.multiplicity = steps, image_channels, multiplicity
        self.memory = memory

    def chain(self, observation: Observation) -> Chain:
        """The machine on one observation, as the chain I, U_1, I, ..., U_T, I.

        It shares the machine's parameters, its strategy and what that remembers; all that takes a chain takes it.
        """
        injection = self._injection(observation)
        blocks: list[Bijection] = [injection]
        for network in self.networks():
            blocks += [*network, injection]
        return self._chain(blocks)

    def networks(self) -> Iterator[list[Bijection]]:
        """The blocks of U_1, ..., U_T."""
        for step in range(self.count):
            yield list(self.blocks[step % len(self.blocks)])  # pyright: ignore[reportArgumentType]

    def forward(self, state: Tensor, observation: Observation) -> Tensor:
        """The state behind the last injection: (B, C, *spatial) -> the same."""
        return self.chain(observation)(state)[0]

    def inverse(self, state: Tensor, observation: Observation) -> Tensor:
        """The state before the first injection."""
        return self.chain(observation).inverse(state)[0]

    def readings(
        self,
        state: Tensor,
        observation: Observation,
        read: Callable[[Tensor], Tensor],
        modules: Sequence[nn.Module] = (),
    ) -> list[Tensor]:
        """What a map reads off the state behind each step: T tensors.

        Args:
            state: before the first injection.
            observation: that of the batch.
            read: the map; what it returns shares no memory with the state.
            modules: hold its parameters.

        Memory: under a strategy that rebuilds, one state and the T readings.
        """
        injection = self._injection(observation)
        segments = [self._chain([*network, injection]).steps() for network in self.networks()]
        segments[0] = [*injection.steps(), *segments[0]]
        steps = list(with_readings(segments, Reading(read, modules)))
        return list(self.memory.run(steps, (state,), None, self.memory_log)[0][1:])

    def _injection(self, observation: Observation) -> GradientInjection:
        return GradientInjection(observation, self.image_channels, self.multiplicity)

    def _chain(self, blocks: Sequence[Bijection]) -> Chain:
        chain = Chain(*blocks, memory=self.memory)
        # What the strategy has learned of the steps lasts longer than the chain.
        chain.memory_log, chain.inverse_memory_log = self.memory_log, self.inverse_memory_log
        return chain

    def extra_repr(self) -> str:
        """Steps and sizes, for `print(machine)`."""
        return f"steps={self.count}, image_channels={self.image_channels}, multiplicity={self.multiplicity}"
