"""The looks inside: what the layers of a trained model make of the data, depth by depth."""

from invertible.representations.contraction import Contraction, DepthContraction, Spread, contraction
from invertible.representations.dimension import ComponentAccuracy, DepthDimension, Dimension, dimension
from invertible.representations.features import Labelled
from invertible.representations.inspection import (
    LOOKS,
    InspectionInterrupted,
    LookOptions,
    Representations,
    inspect,
)
from invertible.representations.interpolation import Interpolation, interpolation
from invertible.representations.inverse_error import DepthError, Errors, InverseErrors, inverse_error
from invertible.representations.layers import Layer, layers, states
from invertible.representations.separation import DepthAccuracy, Separation, separation
from invertible.representations.spectrum import JacobianSpectrum, spectrum

__all__ = [
    "LOOKS",
    "ComponentAccuracy",
    "Contraction",
    "DepthAccuracy",
    "DepthContraction",
    "DepthDimension",
    "DepthError",
    "Dimension",
    "Errors",
    "InspectionInterrupted",
    "Interpolation",
    "InverseErrors",
    "JacobianSpectrum",
    "Labelled",
    "Layer",
    "LookOptions",
    "Representations",
    "Separation",
    "Spread",
    "contraction",
    "dimension",
    "inspect",
    "interpolation",
    "inverse_error",
    "layers",
    "separation",
    "spectrum",
    "states",
]
