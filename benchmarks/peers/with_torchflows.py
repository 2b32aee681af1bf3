"""torchflows (Nabergoj & Strumbelj 2024)."""

from torch import nn
from torchflows.bijections.finite.autoregressive.architectures import CouplingRQNSF, RealNVP
from torchflows.bijections.finite.multiscale.architectures import AffineGlow
from torchflows.flows import Flow

from peers.model import BINS, DEPTH, FEATURES, HIDDEN, LAYERS, LEVELS, SHAPE, Model

CONDITIONER = {"n_hidden": HIDDEN, "n_layers": 3, "nonlinearity": nn.ReLU}


def _model(bijection, note):
    flow = Flow(bijection)
    inner = flow.bijection
    note += "ActNorm after every coupling; log_det in the inverse too"
    return Model(flow, flow.log_prob, lambda x: inner.forward(x)[0], lambda z: inner.inverse(z)[0], note)


def realnvp(layers=LAYERS):
    return _model(RealNVP((FEATURES,), n_layers=layers, conditioner_kwargs=CONDITIONER), "")


def spline():
    options = {"conditioner_kwargs": CONDITIONER, "transformer_kwargs": {"n_bins": BINS}}
    return _model(CouplingRQNSF((FEATURES,), n_layers=LAYERS, **options), "")


def glow():
    layers = {"n_checkerboard_layers": DEPTH // 2, "n_channel_wise_layers": DEPTH // 2}
    return _model(AffineGlow(SHAPE, n_layers=LEVELS, **layers), "conditioners of its own, seven times as large; ")
