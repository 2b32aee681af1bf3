"""Certified upper bounds of the Lipschitz constants of matrices, layers and networks, in the 2-norm.

Power iteration estimates a norm from below; nothing here uses it. Norms come from float64 decompositions, widened by
more than their rounding. They are bounds of the function that the parameters define in exact arithmetic.
"""

from invertible.norms.activations import ACTIVATIONS
from invertible.norms.convolutions import convolution_norm, padding_factor
from invertible.norms.formulas import (
    additive_norms,
    logarithmic_norms,
    ode_log_norms,
    ode_norms,
    residual_norms,
    shear_norm,
)
from invertible.norms.magnitudes import magnitude_bound
from invertible.norms.matrices import matrix_norm, row_sum_norm, two_sided_norms
from invertible.norms.networks import lipschitz_bound, remembered, unbounded_layers
from invertible.norms.rounding import outward, times
from invertible.norms.symbol import symbol_norm

__all__ = [
    "ACTIVATIONS",
    "additive_norms",
    "convolution_norm",
    "lipschitz_bound",
    "logarithmic_norms",
    "magnitude_bound",
    "matrix_norm",
    "ode_log_norms",
    "ode_norms",
    "outward",
    "padding_factor",
    "remembered",
    "residual_norms",
    "row_sum_norm",
    "shear_norm",
    "symbol_norm",
    "times",
    "two_sided_norms",
    "unbounded_layers",
]
