"""The hand-written floors."""

from floors import GlowFloor, RealNVPFloor, SplineFloor

from peers.model import BINS, BOUND, CHANNELS, DEPTH, FEATURES, HIDDEN, LAYERS, LEVELS, SHAPE, Model


def _model(floor):
    return Model(floor, floor.log_prob, lambda x: floor(x)[0], floor.inverse, "no checks; no log_det in the inverse")


def realnvp(layers=LAYERS):
    return _model(RealNVPFloor(FEATURES, layers, HIDDEN))


def spline():
    return _model(SplineFloor(FEATURES, LAYERS, HIDDEN, BINS, BOUND))


def glow():
    return _model(GlowFloor(SHAPE, LEVELS, DEPTH, CHANNELS))
