"""What an attack on invertibility found."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """The worst points near data that an attack found. Figures of samples are on the CPU.

    Errors are |z - f^-1(f(z))|_2 / max(|x|_2, median |x|_2), x the data, the median over the batch; `inf` where the
    reconstruction is not finite or the inverse raised an error.

    Attributes:
        x: the data, (B, ...).
        worst_x: the worst point of each sample's ball, (B, ...).
        reconstruction: f^-1(f(worst_x)), (B, ...); NaN where nothing came back.
        start_error: error at x itself, float64 of shape (B,).
        error: error at `worst_x`, float64 of shape (B,).
        history: error at the random start and after every step of the worse search, float64 of shape (steps + 1, B);
            `inf` from the first one that is not finite.
        first_non_finite: number of the step after which the reconstruction was not finite, 0 for the random start or
            x itself, -1 for never; (B,).
        random_steps: steps in a random direction for want of a usable gradient, (B,).
        restart: number of the worse search, (B,).
        norm: of the ball.
        radius: of the ball.
        step_size: length of a step.
        eps: unit of rounding of the dtype in which the map ran.
    """

    x: Tensor
    worst_x: Tensor
    reconstruction: Tensor
    start_error: Tensor
    error: Tensor
    history: Tensor
    first_non_finite: Tensor
    random_steps: Tensor
    restart: Tensor
    norm: str
    radius: float
    step_size: float
    eps: float

    @property
    def worst(self) -> float:
        """The largest error found."""
        return self.error.max().item()

    @property
    def worst_index(self) -> int:
        """Index of the sample with the largest error; of those that are lost, the one lost first."""
        lost = self.first_non_finite >= 0
        if bool(lost.any()):
            return int(torch.where(lost, self.first_non_finite, len(self.history)).argmin())
        return int(self.error.argmax())

    @property
    def non_finite(self) -> int:
        """Number of samples whose reconstruction is lost somewhere in their ball, as far as was searched."""
        return int((self.first_non_finite >= 0).sum())

    @property
    def growth(self) -> Tensor:
        """error / start_error, of shape (B,); at least eps is taken for the start."""
        return self.error / self.start_error.clamp(min=self.eps)

    @property
    def distance(self) -> Tensor:
        """|worst_x - x| in the ball's norm, float64 of shape (B,)."""
        order = float("inf") if self.norm == "linf" else 2
        shift = (self.worst_x.cpu().double() - self.x.cpu().double()).reshape(len(self.x), -1)
        return torch.linalg.vector_norm(shift, ord=order, dim=1)

    def __str__(self) -> str:
        steps, count = self.history.shape
        lines = [
            f"attack: {count} samples, {self.norm} ball of radius {self.radius:.3g}, {steps - 1} steps of "
            f"{self.step_size:.3g}; relative errors of f^-1(f(x))",
            f"{'':18}{'median':>10}{'worst':>10}{'lost':>6}",
            f"{'at the data':18}{self.start_error.median().item():10.2g}{self.start_error.max().item():10.2g}"
            f"{int(self.start_error.isinf().sum()):6}",
            f"{'worst of the ball':18}{self.error.median().item():10.2g}{self.worst:10.2g}{self.non_finite:6}",
        ]
        worst = self.worst_index
        where = f"sample {worst}: error {self.start_error[worst].item():.2g} at the data, "
        if self.first_non_finite[worst] >= 0:
            lines.append(where + f"not finite after {int(self.first_non_finite[worst])} steps")
        else:
            lines.append(where + f"{self.error[worst].item():.2g} at a distance of {self.distance[worst].item():.3g}")
        if bool(self.random_steps.any()):
            lines.append(f"{int(self.random_steps.sum())} steps in random directions, for want of a usable gradient")
        return "\n".join(lines)
