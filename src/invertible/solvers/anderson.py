"""The memory of Anderson's acceleration: differences of past points, and the mixture of them that fits best."""

import torch
from torch import Tensor

from invertible.solvers.samples import norm


class Mixture:
    r"""Anderson acceleration (Anderson 1965; type II of Fang & Saad 2009) of x <- x + f(x), each sample by itself.

    Of the last m differences of points and of their values,

    $$\Delta x_i = x_{i+1} - x_i, \quad \Delta f_i = f(x_{i+1}) - f(x_i), \qquad
      x^+ = x + f(x) - \sum_i \gamma_i (\Delta x_i + \Delta f_i), \quad
      \gamma = \arg\min |f(x) - \textstyle\sum_i \gamma_i \Delta f_i|^2 + \lambda |\gamma|^2 .$$

    Differences are kept divided by $|\Delta f_i|$: they shrink by orders of magnitude from step to step, and the small
    system of equations would be ill-conditioned for no other reason. $\lambda$ is a few eps.

    Args:
        like: points, (B, D).
        window: m.
    """

    def __init__(self, like: Tensor, window: int) -> None:
        batch, features = like.shape
        # (B, m, D): only what is filled is read.
        self._steps = like.new_empty(batch, window, features)
        self._values = like.new_empty(batch, window, features)
        self._window, self._added = window, 0
        self._ridge = 10 * torch.finfo(like.dtype).eps * torch.eye(window, dtype=like.dtype, device=like.device)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember Delta x and Delta f, (B, D) each, in place of the oldest; what is not finite is left out."""
        length = norm(change)
        usable = (length > 0) & length.isfinite()
        factor = torch.where(usable, 1 / torch.where(usable, length, 1), 0)[:, None]
        if not bool(usable.all()):
            step, change = (torch.where(usable[:, None], each, 0) for each in (step, change))
        place = self._added % self._window
        torch.mul(change, factor, out=self._values[:, place])
        torch.addcmul(self._values[:, place], step, factor, out=self._steps[:, place])
        self._added += 1

    def correction(self, f: Tensor) -> Tensor:
        """sum_i gamma_i (Delta x_i + Delta f_i), (B, D); not finite where the equations have no solution."""
        filled = min(self._added, self._window)
        values = self._values[:, :filled]
        gram = torch.baddbmm(self._ridge[:filled, :filled], values, values.transpose(1, 2))
        weights, _ = torch.linalg.solve_ex(gram, torch.bmm(values, f[:, :, None]))
        return torch.bmm(weights.transpose(1, 2), self._steps[:, :filled])[:, 0]

    def keep(self, samples: Tensor) -> None:
        """Forget all samples but these, boolean of shape (B,)."""
        self._steps, self._values = self._steps[samples], self._values[samples]
