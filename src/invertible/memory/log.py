"""What a chain remembers of its backward passes, and the report of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class Quarantined:
    """A step of a chain that is not rebuilt from its output any more.

    Attributes:
        name: of the block.
        mode: `"input kept"`: it is run again from its input; `"stored"`: its activations are kept.
        error: the relative reconstruction error that led to it.
        step: number of the chain's pass in which it happened, from 1.
        reason: what was found.
    """

    name: str
    mode: str
    error: float
    step: int
    reason: str


@dataclass
class Log:
    """What a chain remembers from pass to pass.

    Attributes:
        passes: forward passes with grad so far.
        length: steps of the chain in the last one.
        bytes_kept: bytes of activations held between forward and backward of the last one, its output included.
        alarms: reconstructions that missed the tolerance.
        repairs: those mended by running the chain again from a kept activation.
        worst_error: the largest reconstruction error that a witness has seen.
        worst_block: name of its block.
        quarantined: by number of step.
        tried: modes (train or eval, dtype, autocast) in which every step was proved on its first pass.
        warned: whether the one warning has been given.
        costs: `budget.Cost` of every step, where a budget has measured them.
        bytes_rebuilt: bytes held with every step rebuilt, likewise.
    """

    passes: int = 0
    length: int = 0
    bytes_kept: int = 0
    alarms: int = 0
    repairs: int = 0
    worst_error: float = 0.0
    worst_block: str | None = None
    quarantined: dict[int, Quarantined] = field(default_factory=dict)
    tried: set[object] = field(default_factory=set)
    warned: bool = False
    costs: list[Any] = field(default_factory=list)
    bytes_rebuilt: int = 0

    def begin(self, length: int) -> None:
        """Count a pass; numbers of steps mean nothing any more once the chain has another length."""
        self.passes += 1
        if length != self.length:
            self.quarantined, self.tried, self.costs, self.length = {}, set(), [], length

    def saw(self, error: float, name: str) -> None:
        """Note an error if it is the worst so far."""
        if not error <= self.worst_error:
            self.worst_error, self.worst_block = error, name


@dataclass(frozen=True)
class ChainReport:
    """The state of one chain.

    Attributes:
        name: of the chain within the model.
        strategy: its strategy.
        log: what it remembers.
    """

    name: str
    strategy: str
    log: Log


@dataclass(frozen=True)
class Report:
    """What all chains of a model remember; `print` shows it.

    Attributes:
        chains: a report for every chain that has run under a strategy of its own.
    """

    chains: tuple[ChainReport, ...]

    @property
    def bytes_kept(self) -> int:
        """Bytes held between forward and backward, over all chains."""
        return sum(chain.log.bytes_kept for chain in self.chains)

    @property
    def alarms(self) -> int:
        """Reconstructions that missed the tolerance, over all chains and passes."""
        return sum(chain.log.alarms for chain in self.chains)

    @property
    def worst_error(self) -> float:
        """The largest reconstruction error seen."""
        return max((chain.log.worst_error for chain in self.chains), default=0.0)

    @property
    def quarantined(self) -> list[Quarantined]:
        """All steps that are not rebuilt any more."""
        return [found for chain in self.chains for _, found in sorted(chain.log.quarantined.items())]

    def __str__(self) -> str:
        if not self.chains:
            return "No chain has run with grad under a strategy other than 'store'."
        lines = []
        for chain in self.chains:
            log = chain.log
            lines.append(f"{chain.name}: {chain.strategy}")
            lines.append(f"  passes {log.passes}, steps {log.length}, kept {log.bytes_kept / 2**20:.3f} MiB")
            worst = f"{log.worst_error:.1e}" + (f" at {log.worst_block}" if log.worst_block else "")
            lines.append(f"  worst reconstruction error {worst}; alarms {log.alarms}, repaired {log.repairs}")
            lines += [
                f"  step {index} ({found.name}): {found.mode} since pass {found.step}, error {found.error:.1e}: "
                f"{found.reason}"
                for index, found in sorted(log.quarantined.items())
            ]
        return "\n".join(lines)


def report(model: nn.Module) -> Report:
    """What the chains of a model have measured while they trained.

    Args:
        model: any module that holds chains.

    Returns:
        Bytes kept, blocks in quarantine and the worst reconstruction error seen, for every chain that has run.
    """
    found = []
    for name, module in model.named_modules():
        for attribute, suffix in (("memory_log", ""), ("inverse_memory_log", " (inverse)")):
            log = getattr(module, attribute, None)
            if isinstance(log, Log) and log.passes:
                found.append(ChainReport((name or "chain") + suffix, repr(getattr(module, "memory", None)), log))
    return Report(tuple(found))
