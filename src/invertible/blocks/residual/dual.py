"""An activation on numbers and their tangents together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invertible.blocks.residual.smooth import Smooth


class Dual(torch.autograd.Function):
    """(z, t_1, ..., t_P) to (phi(z + bias), phi'(z + bias) t_1, ..., phi'(z + bias) t_P), all along the batch.

    The backward pass takes phi'' from what the forward pass computed anyway, in some ten operations; torch's own graph
    of phi and phi' takes thrice as many. Where its result is to be differentiated in turn, it is built of torch's
    operations.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        rows: Tensor,
        count: int,
        function: Smooth,
        bias: Tensor | None,
        parameter: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The rows, and phi'(z + bias) as a constant.

        Args:
            ctx: autograd's.
            rows: z of `count` samples, then their tangents, (count (1 + P), ...).
            count: B.
            function: phi.
            bias: of a shape that broadcasts to z's, or `None`.
            parameter: of phi.
        """
        z = rows[:count] if bias is None else rows[:count] + bias
        value, slope, kept = function.first(z, parameter)
        result = torch.empty_like(rows)
        result[:count] = value
        torch.mul(_tangents(rows, count), slope, out=_tangents(result, count))
        ctx.count, ctx.function, ctx.kept = count, function, len(kept)
        ctx.save_for_backward(rows, z, slope, bias, parameter, *kept)
        ctx.mark_non_differentiable(slope)
        return result, slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradients for rows, bias and parameter."""
        gradient, (rows, z, slope, bias, parameter, *kept) = gradients[0], ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(ctx, gradient, rows, bias, parameter)
        count, function = ctx.count, ctx.function
        result = torch.empty_like(gradient)
        of_tangents, into = _tangents(gradient, count), _tangents(result, count)
        torch.mul(of_tangents, slope, out=into)
        of_slope = of_tangents * _tangents(rows, count)
        of_slope = of_slope[0] if len(of_slope) == 1 else of_slope.sum(0)
        second = function.second(z, slope, tuple(kept), parameter)
        of_z = torch.mul(gradient[:count], slope, out=result[:count])
        of_z.addcmul_(of_slope, second if parameter is None else second * parameter)
        of_bias = None if bias is None or not ctx.needs_input_grad[3] else of_z.sum_to_size(bias.shape)
        of_parameter = None
        if parameter is not None and ctx.needs_input_grad[4]:
            found = function.by_parameter(z, tuple(kept), second, gradient[:count], of_slope)
            of_parameter = found.reshape(parameter.shape)
        return result, None, None, of_bias, of_parameter


def _tangents(rows: Tensor, count: int) -> Tensor:
    return rows[count:].unflatten(0, (-1, count))


def _differentiable(
    ctx: Any,  # noqa: ANN401
    gradient: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    parameter: Tensor | None,
) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        z = rows[: ctx.count] if bias is None else rows[: ctx.count] + bias
        value, slope, _ = ctx.function.first(z, parameter)
        result = torch.cat((value, (_tangents(rows, ctx.count) * slope).flatten(0, 1)))
        inputs = [each for each in (rows, bias, parameter) if each is not None and each.requires_grad]
        found = iter(torch.autograd.grad(result, inputs, gradient, create_graph=True))
        of_rows, of_bias, of_parameter = (
            next(found) if each is not None and each.requires_grad else None for each in (rows, bias, parameter)
        )
    return of_rows, None, None, of_bias, of_parameter
