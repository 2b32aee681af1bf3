"""Small models of other libraries, randomised, with what their own code says of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import normflows as nf
import pyro.distributions as pd
import torch
import zuko
from nflows import distributions as nd
from nflows import flows as nflows
from nflows import transforms as nt
from nflows.nn.nets import ConvResidualNet, ResidualNet
from pyro.distributions import transforms as pt
from torch import nn
from torch.distributions import transforms as tt

MASK = torch.tensor([1.0, -1.0, 1.0, -1.0])


@dataclass
class Case:
    """What is adapted, how, and what must come out.

    Attributes:
        build: makes the object.
        shape: of a sample.
        condition: shape of a row of the condition, `None` for none.
        names: classes of the blocks that the audit must name, in the order in which data pass them.
        log_prob: their log-density of (object, x, condition).
        forward: their map to latents (joined to one tensor) of (object, x, condition).
        inverse: their map back of (object, y, condition).
        options: arguments of `adapt`.
        unit: whether samples lie in (0, 1).
        tolerance: of the laws, for inverses that iterate.
    """

    build: Callable[[], Any]
    shape: tuple[int, ...] = (4,)
    condition: tuple[int, ...] | None = None
    names: list[str] = field(default_factory=list)
    log_prob: Callable[..., torch.Tensor] | None = None
    forward: Callable[..., torch.Tensor] | None = None
    inverse: Callable[..., torch.Tensor] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    unit: bool = False
    tolerance: float | None = None


def net(context=None):
    return lambda a, b: ResidualNet(a, b, 8, context_features=context, num_blocks=1)


def conv(a, b):
    return ConvResidualNet(a, b, 8, num_blocks=1)


def nflows_images():
    scales = nt.MultiscaleCompositeTransform(2)
    channels = torch.tensor([1.0, 1.0, -1.0, -1.0])
    layers = [
        nt.SqueezeTransform(),
        nt.ActNorm(4),
        nt.OneByOneConvolution(4),
        nt.AffineCouplingTransform(channels, conv),
    ]
    hidden = scales.add_transform(nt.CompositeTransform(layers), (4, 2, 2))
    scales.add_transform(nt.AffineCouplingTransform(torch.tensor([1.0, -1.0]), conv), hidden)
    return nflows.Flow(scales, nd.StandardNormal([16]))


def nflows_flow(*layers, base=None, **options):
    return nflows.Flow(nt.CompositeTransform(layers), base or nd.StandardNormal([4]), **options)


def nflows_log_prob(flow, x, condition):
    return flow.log_prob(x, context=condition)


NFLOWS = {
    "nflows": Case(
        lambda: nflows_flow(
            nt.ActNorm(4),
            nt.AffineCouplingTransform(MASK, net()),
            nt.RandomPermutation(4),
            nt.LULinear(4),
            nt.MaskedAffineAutoregressiveTransform(4, 8),
            nt.InverseTransform(
                nt.PiecewiseRationalQuadraticCouplingTransform(MASK, net(), tails="linear", tail_bound=9)
            ),
        ),
        names=[
            "ActNorm",
            "AffineCouplingTransform",
            "RandomPermutation",
            "LULinear",
            "MaskedAffineAutoregressiveTransform",
            "PiecewiseRationalQuadraticCouplingTransform",
        ],
        log_prob=nflows_log_prob,
        forward=lambda flow, x, condition: flow.transform_to_noise(x),
        inverse=lambda flow, y, condition: flow._transform.inverse(y)[0],
    ),
    "nflows-conditional": Case(
        lambda: nflows_flow(
            nt.AffineCouplingTransform(MASK, net(3)),
            nt.MaskedAffineAutoregressiveTransform(4, 8, context_features=3),
            base=nd.ConditionalDiagonalNormal([4], nn.Linear(3, 8)),
        ),
        condition=(3,),
        names=["AffineCouplingTransform", "MaskedAffineAutoregressiveTransform"],
        log_prob=nflows_log_prob,
        forward=lambda flow, x, condition: flow.transform_to_noise(x, condition),
        inverse=lambda flow, y, condition: flow._transform.inverse(y, condition)[0],
    ),
    "nflows-embedded": Case(
        lambda: nflows_flow(
            nt.AffineCouplingTransform(MASK, net(5)),
            base=nd.ConditionalDiagonalNormal([4], nn.Linear(5, 8)),
            embedding_net=nn.Sequential(nn.Linear(2, 5), nn.Tanh()),
        ),
        condition=(2,),
        names=["AffineCouplingTransform"],
        log_prob=nflows_log_prob,
        options={"condition_features": 2},
    ),
    "nflows-multiscale": Case(
        nflows_images,
        shape=(1, 4, 4),
        names=[
            "SqueezeTransform",
            "ActNorm",
            "OneByOneConvolution",
            "AffineCouplingTransform",
            "AffineCouplingTransform",
        ],
        log_prob=nflows_log_prob,
        forward=lambda flow, x, condition: flow.transform_to_noise(x),
        inverse=lambda flow, y, condition: flow._transform.inverse(y)[0],
    ),
    "nflows-layer": Case(lambda: nt.LULinear(4), names=["LULinear"], forward=lambda t, x, condition: t(x)[0]),
}


def mlp(*sizes):
    return nf.nets.MLP(list(sizes))


def normflows_layers():
    half = torch.tensor([1.0, 0.0, 1.0, 0.0])
    return [
        nf.flows.MaskedAffineFlow(half, mlp(4, 8, 4), mlp(4, 8, 4)),
        nf.flows.ActNorm(4),
        nf.flows.AffineCouplingBlock(mlp(2, 8, 4)),
        nf.flows.Permute(4, "swap"),
        nf.flows.LULinearPermute(4),
        nf.flows.CoupledRationalQuadraticSpline(4, 1, 8, tail_bound=9),
    ]


def normflows_glow(num_classes=None):
    flows = [[nf.flows.GlowBlock(c, 8), nf.flows.Squeeze()] for c in (8, 4)]
    shapes = [(8, 1, 1), (2, 2, 2)]
    q0 = [nf.distributions.GlowBase(shape, num_classes) for shape in shapes]
    return nf.MultiscaleFlow(q0, flows, [nf.flows.Merge()], nf.transforms.Logit(), class_cond=num_classes is not None)


def normflows_conditional():
    layers = [nf.flows.MaskedAffineAutoregressive(4, 8, context_features=3), nf.flows.LULinearPermute(4)]
    base = nf.distributions.base.ConditionalDiagGaussian(4, nn.Linear(3, 8))
    return nf.ConditionalNormalizingFlow(base, layers)


GLOW = ["ActNorm", "Invertible1x1Conv", "AffineCouplingBlock"]

NORMFLOWS = {
    "normflows": Case(
        lambda: nf.NormalizingFlow(nf.distributions.DiagGaussian(4), normflows_layers()),
        names=[
            "CoupledRationalQuadraticSpline",
            "LULinearPermute",
            "Permute",
            "AffineCouplingBlock",
            "ActNorm",
            "MaskedAffineFlow",
        ],
        log_prob=lambda flow, x, condition: flow.log_prob(x),
        forward=lambda flow, x, condition: flow.inverse(x),
        inverse=lambda flow, y, condition: flow.forward(y),
    ),
    "normflows-conditional": Case(
        normflows_conditional,
        condition=(3,),
        names=["LULinearPermute", "MaskedAffineAutoregressive"],
        log_prob=lambda flow, x, condition: flow.log_prob(x, condition),
        forward=lambda flow, x, condition: flow.inverse(x, condition),
        inverse=lambda flow, y, condition: flow.forward(y, condition),
    ),
    "normflows-classes": Case(
        lambda: nf.ClassCondFlow(nf.distributions.ClassCondDiagGaussian(4, 3), [nf.flows.LULinearPermute(4)]),
        condition=(3,),
        names=["LULinearPermute"],
        log_prob=lambda flow, x, condition: flow.log_prob(x, condition),
    ),
    "normflows-multiscale": Case(
        normflows_glow,
        shape=(1, 4, 4),
        names=["Logit", "Squeeze", *GLOW, "Merge", "Squeeze", *GLOW],
        log_prob=lambda flow, x, condition: flow.log_prob(x, None),
        forward=lambda flow, x, condition: torch.cat([z.flatten(1) for z in flow.inverse_and_log_det(x)[0]], 1),
        unit=True,
    ),
    "normflows-multiscale-classes": Case(
        lambda: normflows_glow(3),
        shape=(1, 4, 4),
        condition=(3,),
        log_prob=lambda flow, x, condition: flow.log_prob(x, condition),
        unit=True,
    ),
    "normflows-layer": Case(
        lambda: nf.flows.LULinearPermute(4),
        names=["LULinearPermute"],
        forward=lambda flow, x, condition: flow.inverse(x)[0],
        inverse=lambda flow, y, condition: flow(y)[0],
    ),
}


def zuko_log_prob(flow, x, condition):
    return flow(condition).log_prob(x)


ZUKO = {
    "zuko-realnvp": Case(
        lambda: zuko.flows.RealNVP(4, transforms=2, hidden_features=(8,)),
        names=["GeneralCouplingTransform"] * 2,
        log_prob=zuko_log_prob,
        forward=lambda flow, x, condition: flow().transform(x),
        inverse=lambda flow, y, condition: flow().transform.inv(y),
    ),
    "zuko-nsf": Case(
        lambda: zuko.flows.NSF(4, 3, transforms=2, hidden_features=(8,)),
        condition=(3,),
        names=["MaskedAutoregressiveTransform"] * 2,
        log_prob=zuko_log_prob,
        forward=lambda flow, x, condition: flow(condition).transform(x),
        inverse=lambda flow, y, condition: flow(condition).transform.inv(y),
        options={"condition_features": 3},
    ),
    "zuko-conditional-base": Case(
        lambda: zuko.lazy.Flow(
            zuko.flows.MaskedAutoregressiveTransform(4, 2, hidden_features=(8,)), ConditionalNormal(2, 4)
        ),
        condition=(2,),
        log_prob=zuko_log_prob,
        options={"condition_features": 2},
    ),
    "zuko-circular": Case(
        lambda: zuko.flows.NCSF(4, transforms=2, hidden_features=(8,)), unit=True, log_prob=zuko_log_prob
    ),
    "zuko-lazy-transform": Case(
        lambda: zuko.flows.MaskedAutoregressiveTransform(4, hidden_features=(8,)).inv,
        forward=lambda t, x, condition: t()(x),
    ),
    "zuko-transform": Case(
        lambda: zuko.transforms.ComposedTransform(zuko.transforms.SoftclipTransform(), tt.SigmoidTransform()),
        names=["SoftclipTransform", "SigmoidTransform"],
        forward=lambda t, x, condition: t(x),
    ),
}


class ConditionalNormal(zuko.lazy.LazyDistribution):
    def __init__(self, context, features):
        super().__init__()
        self.hyper = nn.Linear(context, features)

    def forward(self, c=None):
        return zuko.distributions.DiagNormal(self.hyper(c), torch.ones_like(self.hyper(c)))


def dense(a, b):
    return nn.Sequential(nn.Linear(a, 8), nn.Tanh(), nn.Linear(8, b))


def freia_sequence(condition=False):
    network = Ff.SequenceINN(4)
    options = {"cond": 0, "cond_shape": (3,)} if condition else {}
    network.append(Fm.ActNorm)
    network.append(Fm.AllInOneBlock, subnet_constructor=dense, **options)
    network.append(Fm.PermuteRandom, seed=0)
    network.append(Fm.RNVPCouplingBlock, subnet_constructor=dense)
    return network


def freia_graph():
    start, label, other = Ff.InputNode(2, 4, 4, name="x"), Ff.ConditionNode(3), Ff.ConditionNode(2)
    nodes = [start, label, other, Ff.Node(start, Fm.IRevNetDownsampling, {})]
    nodes.append(Ff.Node(nodes[-1], Fm.Flatten, {}))
    coupling = {"subnet_constructor": dense}
    nodes.append(Ff.Node(nodes[-1], Fm.GLOWCouplingBlock, coupling, conditions=[label, other]))
    split = Ff.Node(nodes[-1], Fm.Split, {"section_sizes": [20, 12], "dim": 0})
    left = Ff.Node(split.out0, Fm.GLOWCouplingBlock, coupling, conditions=other)
    right = Ff.Node(split.out1, Fm.RNVPCouplingBlock, coupling)
    return Ff.GraphINN([*nodes, split, left, right, Ff.OutputNode(left), Ff.OutputNode(right)])


FREIA = {
    "freia-sequence": Case(
        freia_sequence,
        names=["ActNorm", "AllInOneBlock", "PermuteRandom", "RNVPCouplingBlock"],
        forward=lambda network, x, condition: network(x)[0],
        inverse=lambda network, y, condition: network(y, rev=True)[0],
    ),
    "freia-sequence-conditional": Case(
        lambda: freia_sequence(condition=True),
        condition=(3,),
        forward=lambda network, x, condition: network(x, c=[condition])[0],
        inverse=lambda network, y, condition: network(y, c=[condition], rev=True)[0],
    ),
    "freia-graph": Case(
        freia_graph,
        shape=(2, 4, 4),
        condition=(5,),
        names=[
            "IRevNetDownsampling",
            "Flatten",
            "GLOWCouplingBlock",
            "Split",
            "RNVPCouplingBlock",
            "GLOWCouplingBlock",
        ],
        forward=lambda network, x, condition: torch.cat(network(x, c=condition.split([3, 2], 1))[0], 1),
        inverse=lambda network, y, condition: network(y.split([20, 12], 1), c=condition.split([3, 2], 1), rev=True)[0],
    ),
    "freia-block": Case(
        lambda: Fm.GINCouplingBlock([(4,)], subnet_constructor=dense),
        names=["GINCouplingBlock"],
        forward=lambda block, x, condition: block((x,))[0][0],
    ),
}


def torch_flow(dtype=torch.float64):
    base = torch.distributions.Normal(torch.zeros(4, dtype=dtype), 2 * torch.ones(4, dtype=dtype))
    return torch.distributions.TransformedDistribution(
        base, [tt.AffineTransform(1.0, 3.0), tt.TanhTransform(cache_size=1), tt.AffineTransform(0.0, 5.0)]
    )


def pyro_flow():
    base = pd.Normal(torch.zeros(4), torch.ones(4)).to_event(1)
    torch.manual_seed(0)
    layers = [pt.affine_coupling(4, hidden_dims=[8]), pt.Permute(torch.tensor([2, 0, 3, 1])), pt.Spline(4, bound=9.0)]
    return pd.TransformedDistribution(base, layers)


def pyro_conditional():
    layers = [pt.conditional_affine_coupling(4, 3, hidden_dims=[8]), pt.conditional_spline(4, 3, [8], bound=9.0)]
    return pd.ConditionalTransformedDistribution(pd.Normal(torch.zeros(4), torch.ones(4)).to_event(1), layers)


TORCH = {
    "torch-transform": Case(
        lambda: tt.ComposeTransform([tt.SoftplusTransform(), tt.ExpTransform().inv, tt.SigmoidTransform()]),
        names=["SoftplusTransform", "ExpTransform", "SigmoidTransform"],
        forward=lambda t, x, condition: t(x),
        inverse=lambda t, y, condition: t.inv(y),
    ),
    "torch-event": Case(
        lambda: tt.IndependentTransform(tt.AffineTransform(torch.zeros(3), torch.tensor([1.0, 2.0, -3.0])), 1),
        shape=(2, 3),
        names=["AffineTransform"],
        forward=lambda t, x, condition: t(x),
    ),
    "torch-flow": Case(
        torch_flow,
        names=["AffineTransform", "TanhTransform", "AffineTransform"],
        log_prob=lambda flow, x, condition: flow.log_prob(x).sum(1),
    ),
    "pyro-flow": Case(
        pyro_flow,
        names=["Spline", "Permute", "AffineCoupling"],
        log_prob=lambda flow, x, condition: flow.log_prob(x),
        inverse=lambda flow, y, condition: tt.ComposeTransform(flow.transforms)(y),
    ),
    "pyro-autoregressive": Case(
        lambda: pt.affine_autoregressive(4, hidden_dims=[8]),
        names=["AffineAutoregressive"],
        forward=lambda t, x, condition: t(x),
    ),
    "pyro-conditional": Case(
        pyro_conditional,
        condition=(3,),
        names=["ConditionalSpline", "ConditionalAffineCoupling"],
        log_prob=lambda flow, x, condition: flow.condition(condition).log_prob(x),
        options={"condition_features": 3},
    ),
}

CASES: dict[str, Case] = NFLOWS | NORMFLOWS | ZUKO | FREIA | TORCH


def modules_of(obj):
    """The modules inside an object, a transformed distribution's transforms too."""
    parts = [obj, *getattr(obj, "transforms", [])] if not isinstance(obj, nn.Module) else [obj]
    return [part for part in parts if isinstance(part, nn.Module)]


@torch.no_grad()
def _randomise(module):
    """Trained parameters alone: FrEIA keeps permutations and rotations as parameters, too."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))


def make(name, dtype=torch.float64, samples=6):
    """A randomised object, initialised from data where it must be, in eval mode; samples and a condition."""
    case = CASES[name]
    torch.manual_seed(len(name))
    obj = case.build()
    for module in modules_of(obj):
        _randomise(module)
        module.to(dtype).eval()
    x = torch.rand(samples, *case.shape, dtype=dtype) if case.unit else torch.randn(samples, *case.shape, dtype=dtype)
    condition = None if case.condition is None else torch.randn(samples, *case.condition, dtype=dtype)
    if "classes" in name:
        condition = torch.eye(*case.condition, dtype=dtype)[torch.arange(samples) % case.condition[0]]
    return obj, x, condition
