"""nflows (Durkan et al. 2020)."""

import math

import torch
from floors import convnet, mlp
from nflows import transforms
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.utils.torchutils import create_alternating_binary_mask

from peers.model import BINS, BOUND, CHANNELS, DEPTH, FEATURES, HIDDEN, LAYERS, LEVELS, SHAPE, Model, WithContext


def _model(transform, shape, note=""):
    flow = Flow(transform, StandardNormal([math.prod(shape)]))
    return Model(flow, flow.log_prob, lambda x: transform(x)[0], lambda z: transform.inverse(z)[0], note)


def _couplings(coupling, layers, **options):
    def conditioner(inputs, outputs):
        return WithContext(*mlp(inputs, outputs, HIDDEN))

    masks = [create_alternating_binary_mask(FEATURES, even=index % 2 == 0) for index in range(layers)]
    blocks = [coupling(mask, conditioner, **options) for mask in masks]
    return _model(transforms.CompositeTransform(blocks), (FEATURES,), "log_det in the inverse too")


def realnvp(layers=LAYERS):
    return _couplings(transforms.AffineCouplingTransform, layers)


def spline():
    options = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    return _couplings(transforms.PiecewiseRationalQuadraticCouplingTransform, LAYERS, **options)


def glow():
    scales = transforms.MultiscaleCompositeTransform(LEVELS)
    channels, height, width = SHAPE
    for _ in range(LEVELS):
        channels, height, width = channels * 4, height // 2, width // 2
        steps = [transforms.SqueezeTransform(), *(step for _ in range(DEPTH) for step in _glow_step(channels))]
        rest = scales.add_transform(transforms.CompositeTransform(steps), (channels, height, width))
        channels, height, width = rest or (channels, height, width)
    return _model(scales, SHAPE, "log_det in the inverse too; 1 x 1 inverse cached only on request")


def _glow_step(channels):
    mask = torch.where(torch.arange(channels) < channels // 2, 1, -1)
    return [
        transforms.ActNorm(channels),
        transforms.OneByOneConvolution(channels),
        transforms.AffineCouplingTransform(mask, lambda a, b: WithContext(*convnet(a, b, CHANNELS))),
    ]
