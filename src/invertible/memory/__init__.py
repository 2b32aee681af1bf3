"""How activations are kept for the backward pass."""

from invertible.memory.budget import Budget
from invertible.memory.checkpoint import Checkpoint
from invertible.memory.determinism import DeterminismReport, check_determinism
from invertible.memory.exact import Exact
from invertible.memory.guard import ReconstructionWarning
from invertible.memory.ledger import ReplayError
from invertible.memory.log import Log, Report, report
from invertible.memory.names import strategy
from invertible.memory.owner import MemoryOwner, owners
from invertible.memory.recursive import Recursive
from invertible.memory.reversible import Reversible
from invertible.memory.step import State, Step
from invertible.memory.strategy import Store, Strategy
from invertible.memory.world import ChangedParameterError

__all__ = [
    "Budget",
    "ChangedParameterError",
    "Checkpoint",
    "DeterminismReport",
    "Exact",
    "Log",
    "MemoryOwner",
    "ReconstructionWarning",
    "Recursive",
    "ReplayError",
    "Report",
    "Reversible",
    "State",
    "Step",
    "Store",
    "Strategy",
    "check_determinism",
    "owners",
    "report",
    "strategy",
]
