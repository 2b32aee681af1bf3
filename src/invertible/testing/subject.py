"""The copy of a block that is judged, and how large an error rounding explains."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cached_property

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.shapes import log_det_dtype
from invertible.testing.report import broken

# Above this many numbers a sample no dense Jacobian is computed.
DENSE = 64
# Rounding errors of a block are a few eps times the condition number; 64 gave no false alarm on 900 blocks.
MARGIN = 64
PROBES = 8


class Subject:
    """A private copy of a block in one dtype, with the batch on which it is judged.

    Every call starts from the same random state and the same buffers, so that what a block draws or remembers does
    not look like an error.

    Args:
        block: the block; it is copied, never changed.
        x: batch of inputs.
        condition: its condition.
        dtype: dtype in which the copy runs.
        tolerance: relative tolerance in place of the derived one.

    Attributes:
        name: name of the block's class.
        y: f(x).
        log_det: its log-determinant.
    """

    def __init__(
        self, block: Bijection, x: Tensor, condition: Tensor | None, dtype: torch.dtype, tolerance: float | None
    ) -> None:
        self.name, self.dtype, self.given_tolerance = type(block).__name__, dtype, tolerance
        self.block = deepcopy(block).to(dtype)
        self.x = x.detach().to(dtype)
        self.condition = None if condition is None else condition.detach().to(dtype)
        self.buffers: dict[str, Tensor] = {}
        self._settle()
        self.buffers = {name: buffer.clone() for name, buffer in self.block.named_buffers()}
        self.y, self.log_det = self.forward(self.x, self.condition)

    def _settle(self) -> None:
        """Run both directions once: whatever initialises itself from data does so now."""
        y, _ = self.forward(self.x, self.condition)
        # What an inverse raises is the matter of the law of round trips.
        with suppress(Exception):
            self.inverse(y, self.condition)

    @property
    def dimensions(self) -> int:
        """D, the number of numbers in a sample."""
        return self.x[0].numel()

    def exact(self) -> "Subject":
        """The same map, parameters and all, in float64."""
        return Subject(self.block, self.x, self.condition, torch.float64, self.given_tolerance)

    @torch.no_grad()
    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """f(x) without grad, checked to be a pair."""
        return self._call("forward", x, condition)

    @torch.no_grad()
    def inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """f^-1(y) without grad, checked to be a pair."""
        return self._call("inverse", y, condition)

    def _call(self, direction: str, value: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        own, own_condition = value.clone(), None if condition is None else condition.clone()
        with self.world():
            result = getattr(self.block, direction)(own, own_condition)
        pair = isinstance(result, tuple) and len(result) == 2 and all(isinstance(each, Tensor) for each in result)
        if not pair or not len(result[0].shape):
            expected = f"{direction} to return a pair of tensors (result, log_det)"
            raise broken(self.name, "shape and dtype kept", self.dtype, expected, type(result).__name__)
        kept = _same(own, value) and (condition is None or _same(own_condition, condition))
        if not kept:
            expected = f"{direction} to leave its arguments as they are"
            raise broken(self.name, "input kept", self.dtype, expected, "other values after the call")
        return result[0], result[1]

    @contextmanager
    def world(self, *, grad: bool = False) -> Iterator[None]:
        """Random state and buffers as they were at the first call, with or without grad."""
        devices = [self.x.device] if self.x.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(grad):
            torch.manual_seed(0)
            with torch.no_grad():
                for name, buffer in self.block.named_buffers():
                    # A needless copy would count as a change in place of a tensor that a graph holds.
                    if name in self.buffers and not _same(buffer, self.buffers[name]):
                        buffer.copy_(self.buffers[name])
            yield

    def jacobian(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """df/dx by autograd, (B, D, D); rows of the batch are independent, so one pass serves them all."""
        x = x.detach().clone().requires_grad_()
        try:
            with self.world(grad=True):
                outputs = self.block(x, condition)[0].reshape(len(x), -1)
                rows = [vjp(column.sum(), x) for column in outputs.unbind(1)]
        except RuntimeError as error:
            got = f"RuntimeError: {str(error).splitlines()[0]}"
            raise broken(self.name, "gradients", self.dtype, "forward to be differentiable", got) from error
        return torch.stack([row.flatten(1) for row in rows], 1)

    @cached_property
    def tolerance_at_x(self) -> Tensor:
        """The tolerance of every sample of the batch, (B,)."""
        return self.tolerance(self.condition_number(self.x, self.condition))

    def condition_number(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """cond(df/dx), (B,): by dense SVD; above `DENSE` dimensions |J|_F |J^-1|_F, estimated by random probes."""
        if self.dimensions <= DENSE:
            singular = singular_values(self.jacobian(x, condition))
            return singular[:, 0] / singular[:, -1]
        y, _ = self.forward(x, condition)
        try:
            back = self._frobenius("inverse", y, condition)
        except Exception:  # An inverse that raises breaks the law of round trips.
            return torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        return self._frobenius("forward", x, condition) * back

    def _frobenius(self, direction: str, value: Tensor, condition: Tensor | None) -> Tensor:
        """|J|_F from E|J^T v|^2, v standard normal; infinite where the direction has no graph."""
        value = value.detach().clone().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        with self.world(grad=True):
            result = getattr(self.block, direction)(value, condition)[0]
            if not result.requires_grad:
                return torch.full((len(value),), torch.inf, dtype=torch.float64, device=value.device)
            total = torch.zeros(len(value), dtype=torch.float64, device=value.device)
            for _ in range(PROBES):
                v = torch.randn(result.shape, generator=generator, dtype=result.dtype).to(value.device)
                total += vjp((v * result).sum(), value).flatten(1).double().square().sum(1)
        return (total / PROBES).sqrt()

    def tolerance(self, condition_number: Tensor, eps: float | None = None) -> Tensor:
        """64 eps cond(J), (B,), relative to 1 + |x| + |y|.

        At most sqrt(eps), however bad the condition: an inverse that loses more than half of the digits is none.
        """
        if self.given_tolerance is not None:
            return torch.full_like(condition_number, self.given_tolerance, dtype=torch.float64)
        eps = torch.finfo(self.dtype).eps if eps is None else eps
        derived = MARGIN * eps * condition_number.double().nan_to_num(nan=torch.inf, posinf=torch.inf)
        return derived.clamp_max(eps**0.5)


def scale(*values: Tensor) -> Tensor:
    """1 + |a| + |b| + ..., float64 of shape (B,), with the 2-norm of each sample."""
    return 1 + sum((norm(value) for value in values), torch.zeros((), dtype=torch.float64))


def norm(value: Tensor) -> Tensor:
    """The 2-norm of every sample, float64 of shape (B,)."""
    return value.detach().double().reshape(len(value), -1).norm(dim=1)


def singular_values(jacobian: Tensor) -> Tensor:
    """Singular values in falling order, (B, D), in float64; NaN where the Jacobian is not finite."""
    finite = jacobian.isfinite().all(2).all(1)
    values = torch.linalg.svdvals(torch.where(finite[:, None, None], jacobian.double(), 0.0))
    return torch.where(finite[:, None], values, torch.nan)


def is_log_det(log_det: Tensor, x: Tensor) -> bool:
    """Whether a log-determinant has the shape (B,) and the dtype that it must have."""
    return log_det.shape == x.shape[:1] and log_det.dtype in (torch.float64, log_det_dtype(x.dtype))


def vjp(output: Tensor, x: Tensor) -> Tensor:
    """The gradient of a scalar with respect to x; zero where there is no graph."""
    if not output.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(output, x, retain_graph=True, allow_unused=True, materialize_grads=True)
    return gradient


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
