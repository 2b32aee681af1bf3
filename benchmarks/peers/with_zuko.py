"""zuko (Rozet et al. 2022)."""

from zuko.flows import NICE, RealNVP
from zuko.transforms import MonotonicRQSTransform

from peers.model import BINS, FEATURES, HIDDEN, LAYERS, Model


def _model(flow):
    def decode(z):
        return flow().transform.inv(z)

    return Model(flow, lambda x: flow().log_prob(x), lambda x: flow().transform(x), decode, "no log_det in the inverse")


def realnvp(layers=LAYERS):
    return _model(RealNVP(FEATURES, transforms=layers, hidden_features=(HIDDEN, HIDDEN)))


def spline():
    # Their NSF is autoregressive; as couplings it is faster, above all in the inverse.
    options = {"univariate": MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    return _model(NICE(FEATURES, transforms=LAYERS, hidden_features=(HIDDEN, HIDDEN), **options))
