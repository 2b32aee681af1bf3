"""The matrix of a layer, column by column."""

import math

import torch


def dense_matrix(layer, size=()):
    """Of the linear part with the weight in use for images of a size, in float64."""
    with torch.no_grad():
        weight = layer.weight_in_use(size).double()
    if not size:
        return weight
    inputs = layer.in_channels * math.prod(size)
    eye = torch.eye(inputs, dtype=torch.float64).view(inputs, layer.in_channels, *size)
    return layer._conv_forward(eye, weight, None).flatten(1).T


def norm_of(matrix, norm):
    return float(torch.linalg.matrix_norm(matrix.double(), norm))
