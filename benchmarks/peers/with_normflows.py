"""normflows (Stimper et al. 2023)."""

from floors import mlp
from normflows import MultiscaleFlow, NormalizingFlow, flows, nets
from normflows.distributions import DiagGaussian
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from normflows.utils.masks import create_alternating_binary_mask

from peers.model import BINS, BOUND, CHANNELS, DEPTH, FEATURES, HIDDEN, LAYERS, LEVELS, SHAPE, Model, WithContext


def _model(blocks, note=""):
    model = NormalizingFlow(DiagGaussian(FEATURES, trainable=False), blocks)
    return Model(model, model.log_prob, model.inverse, model.forward, note)


def realnvp(layers=LAYERS):
    blocks = []
    for _ in range(layers):
        net = nets.MLP([FEATURES // 2, HIDDEN, HIDDEN, FEATURES], init_zeros=True)
        blocks += [flows.AffineCouplingBlock(net), flows.Permute(FEATURES, mode="swap")]
    return _model(blocks, "scale exp(r), no clamp; log_det in the inverse too")


class _Spline(flows.Flow):
    """The block within their CoupledRationalQuadraticSpline, whose conditioner cannot be chosen."""

    def __init__(self, even):
        super().__init__()
        mask = create_alternating_binary_mask(FEATURES, even=even)
        options = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND, "apply_unconditional_transform": False}
        self.block = PiecewiseRationalQuadraticCoupling(mask, self._conditioner, **options)

    @staticmethod
    def _conditioner(inputs, outputs):
        return WithContext(*mlp(inputs, outputs, HIDDEN))

    def forward(self, z):
        x, log_det = self.block.inverse(z)
        return x, log_det.view(-1)

    def inverse(self, x):
        z, log_det = self.block(x)
        return z, log_det.view(-1)


def spline():
    return _model([_Spline(index % 2 == 0) for index in range(LAYERS)], "log_det in the inverse too")


def glow():
    channels, height, width = SHAPE
    priors, merges, scales = [], [], []
    for level in range(LEVELS):
        squeezed, size = channels * 2 ** (LEVELS + 1 - level), 2 ** (LEVELS - level)
        steps = [flows.GlowBlock(squeezed, CHANNELS, split_mode="channel", scale=True) for _ in range(DEPTH)]
        scales.append([*steps, flows.Squeeze()])
        latent = (squeezed if level == 0 else squeezed // 2, height // size, width // size)
        priors.append(DiagGaussian(latent, trainable=False))
        merges += [flows.Merge()] if level else []
    model = MultiscaleFlow(priors, scales, merges, class_cond=False)
    return Model(
        model,
        lambda x: model.log_prob(x, None),
        lambda x: model.inverse_and_log_det(x)[0],
        lambda z: model.forward_and_log_det(z)[0],
        "leaky ReLU; log_det in the inverse too",
    )
