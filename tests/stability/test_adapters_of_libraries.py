"""What is particular to one library: its errors, its states, its conventions."""

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import normflows as nf
import pyro.distributions as pd
import pytest
import torch
import zuko
from nflows import distributions as nd
from nflows import flows as nflows
from nflows import transforms as nt
from pyro.distributions import transforms as pt
from torch import nn
from torch.distributions import transforms as tt

from invertible.errors import ConfigError, DomainError, NotInvertibleError, ShapeError
from invertible.stability import AuditOptions, audit, round_trip
from invertible.stability.adapters import adapt
from tests.stability.theirs import dense, normflows_glow

# Of normflows' own code.
pytestmark = pytest.mark.filterwarnings("ignore:torch.lu is deprecated:UserWarning")

QUICK = AuditOptions(samples=30, traced=4, ood=False, temperatures=(1.0, 3.0), sections=())
X = torch.randn(30, 4)


class Nowhere(nt.Transform):
    """A transform that fails as nflows' splines do at the end of their range."""

    def forward(self, inputs, context=None):
        torch.zeros(2)[torch.where(inputs.abs() > 1, 5, 0)]
        return inputs, inputs.new_zeros(len(inputs))

    inverse = forward


def test_nflows_domain():
    bijection = adapt(nt.InverseTransform(nt.Sigmoid()))
    with pytest.raises(DomainError, match="Sigmoid: expected values inside its domain, got some outside"):
        bijection(X + 5)
    record = audit(
        adapt(nt.InverseTransform(nt.Sigmoid())),
        X.sigmoid().clamp(0.05, 0.95),
        options=AuditOptions(samples=30, sections=()),
    )
    status = {one.name: one.status for one in record.sets}
    assert (status["test"], status["scaled x10"]) == ("passed", "refused")


def test_nflows_without_inverse():
    class OneWay(nt.Transform):
        def forward(self, inputs, context=None):
            return inputs.exp(), inputs.sum(1)

    bijection = adapt(nt.CompositeTransform([OneWay()]))
    with pytest.raises(ConfigError, match=r"OneWay: expected a map with both directions, got InverseNotAvailable"):
        bijection.inverse(X)
    with pytest.raises(ConfigError, match="both directions"):
        audit(bijection, X, options=QUICK)


def test_values_out_of_bounds_lose_their_samples_alone():
    bijection = adapt(Nowhere())
    with pytest.raises(NotInvertibleError, match="Nowhere: index 5 is out of bounds"):
        bijection(X)
    trip = round_trip(bijection, X)
    assert trip.data.non_finite == int((X.abs() > 1).any(1).sum())


def test_a_composition_with_a_forward_of_its_own_stays_whole():
    class Own(nt.CompositeTransform):
        def forward(self, inputs, context=None):
            y, log_det = super().forward(2 * inputs, context)
            return y, log_det + inputs.shape[1] * inputs.new_tensor(2.0).log()

        def inverse(self, inputs, context=None):
            x, log_det = super().inverse(inputs, context)
            return x / 2, log_det - inputs.shape[1] * inputs.new_tensor(2.0).log()

    own = Own([nt.LULinear(4)])
    torch.testing.assert_close(adapt(own)(X), own(X))


def test_nflows_bases_have_their_means():
    encoder = nn.Linear(3, 8)
    flow = adapt(nflows.Flow(nt.LULinear(4), nd.ConditionalDiagonalNormal([4], encoder)), condition_features=3)
    condition = torch.randn(6, 3)
    cold = flow.base.sample(6, condition, temperature=0.0)
    torch.testing.assert_close(cold, encoder(condition)[:, :4])


def test_normflows_without_inverse():
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(4), [nf.flows.Planar((4,))])
    with pytest.raises(ConfigError, match="Planar: expected a map with both directions, got NotImplementedError"):
        audit(flow, X, options=QUICK)


def test_normflows_stochastic_layers_are_refused():
    layer = nf.flows.MetropolisHastings(
        nf.distributions.DiagGaussian(4), nf.distributions.DiagGaussianProposal((4,), 0.1), 2
    )
    with pytest.raises(ConfigError, match="MetropolisHastings, which moves its input at random"):
        adapt(nf.NormalizingFlow(nf.distributions.DiagGaussian(4), [layer]))


def test_normflows_classes_may_be_labels():
    flow = normflows_glow(3)
    x, labels = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
    ours = adapt(flow)
    torch.testing.assert_close(ours.log_prob(x, labels), flow.log_prob(x, labels))
    assert audit(
        flow, x, condition=labels, options=AuditOptions(samples=9, ood=False, temperatures=(1.0,), sections=())
    ).passed


def test_normflows_bases_keep_their_temperature():
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(4), [nf.flows.LULinearPermute(4)])
    with torch.no_grad():
        flow.q0.loc.fill_(3.0)
    ours = adapt(flow)
    assert torch.equal(ours.base.sample(5, temperature=0.0), torch.full((5, 4), 3.0))
    assert flow.q0.temperature is None


def test_bounded_bases_stay_in_their_support():
    ours = adapt(zuko.flows.NCSF(4, transforms=1))
    hot, seed = ours.base.sample(500, temperature=5.0), torch.Generator().manual_seed(0)
    assert hot.abs().max() <= torch.pi
    assert ours.base.sample(500, temperature=0.1, generator=seed).abs().max() < 0.11 * torch.pi


@pytest.mark.parametrize("build", ["freia", "normflows"])
def test_layers_initialise_from_data_and_forget(build):
    if build == "freia":
        network = Ff.SequenceINN(4)
        network.append(Fm.ActNorm)
        network.append(Fm.RNVPCouplingBlock, subnet_constructor=dense)
        norm = network.module_list[0]
        untouched = lambda: norm.init_on_next_batch and not norm.scale.any()  # noqa: E731
    else:
        norm = nf.flows.ActNorm(4)
        network = nf.NormalizingFlow(nf.distributions.DiagGaussian(4), [norm])
        untouched = lambda: not norm.data_dep_init_done and not norm.s.any()  # noqa: E731
    x = 100 + 7 * torch.randn(300, 4)
    record = audit(network, x, options=QUICK)
    assert record.passed
    assert untouched()
    # Initialised from latents, the layer would send data of deviation 7 about 100 far away from them.
    test, latents = record.sets[0], record.sets[-1]
    assert test.data.worst < 1e-5
    assert latents.latent.worst < 1e-3


def test_freia_widths_are_known():
    block = Fm.AllInOneBlock([(4,)], dims_c=[(3,)], subnet_constructor=dense)
    assert adapt(block).condition_features == 3
    with pytest.raises(ConfigError, match="expected condition_features=3, which AllInOneBlock was built with, got 2"):
        adapt(block, condition_features=2)


def test_freia_layers_that_need_autograd():
    torch.manual_seed(0)
    network = Ff.SequenceINN(4)
    network.append(Fm.IResNetLayer, internal_size=8)
    for layer in network.module_list:
        layer.lipschitz_correction()
    with torch.no_grad():
        y, log_det = adapt(network)(X)
    assert not y.requires_grad
    assert log_det.shape == (30,)


def test_errors_inside_a_graph_are_their_own():
    start = Ff.InputNode(4)
    node = Ff.Node(start, Fm.RNVPCouplingBlock, {"subnet_constructor": dense})
    bijection = adapt(Ff.GraphINN([start, node, Ff.OutputNode(node)]))
    with pytest.raises(RuntimeError, match="split_with_sizes expects split_sizes to sum exactly to 7"):
        bijection(torch.randn(3, 7))


@pytest.mark.parametrize(
    "transform", [tt.AbsTransform(), tt.SoftmaxTransform(), tt.ComposeTransform([tt.AbsTransform()])]
)
def test_transforms_that_are_no_bijections(transform):
    with pytest.raises(
        ConfigError, match=r"expected a bijective transform, got \w+Transform, which says bijective=False"
    ):
        adapt(transform)


def test_caches_are_passed_by():
    class Liar(tt.Transform):
        bijective, domain, codomain = True, tt.constraints.real, tt.constraints.real

        def _call(self, x):
            return 2 * x

        def _inverse(self, y):
            return y / 3

        def log_abs_det_jacobian(self, x, y):
            return torch.zeros_like(x)

    liar = Liar(cache_size=1)
    y = liar(X)
    assert liar.inv(y) is X
    before = liar._cached_x_y, liar._inv
    ours = adapt(liar)
    assert not torch.allclose(ours.inverse(ours(X)[0])[0], X)
    assert all(a is b for a, b in zip((*before[0], before[1]), (*liar._cached_x_y, liar._inv), strict=True))


def test_events_need_a_batch():
    with pytest.raises(ShapeError, match="3 event axes behind the batch"):
        adapt(tt.ReshapeTransform((2, 2, 1), (4,)))(X)


def test_plain_tensors_follow_the_dtype():
    transform = tt.AffineTransform(torch.zeros(4), torch.full((4,), 0.1))
    y, log_det = adapt(transform)(X.double())
    assert log_det.dtype == y.dtype == torch.float64
    assert transform.scale.dtype == torch.float32
    assert torch.equal(y, X.double() * torch.tensor(0.1).double())


def test_parameters_in_plain_attributes_are_found():
    scale = nn.Parameter(torch.full((4,), 2.0))
    base = torch.distributions.Normal(nn.Parameter(torch.zeros(4)), torch.ones(4))
    flow = torch.distributions.TransformedDistribution(base, [tt.AffineTransform(0.0, scale)])
    ours = adapt(flow)
    assert {id(p) for p in ours.parameters()} >= {id(scale)}
    ours.log_prob(X).sum().backward()
    assert scale.grad is not None


def test_pyro_without_inverse():
    with pytest.raises(ConfigError, match="Planar: expected a map with both directions, got KeyError"):
        adapt(pt.Planar(4)).inverse(X)


def test_pyro_conditions_need_a_width():
    class Shifted(pd.ConditionalTransform):
        def condition(self, context):
            return tt.AffineTransform(context, 1.0)

    with pytest.raises(ConfigError, match="expected the width of the condition that Shifted takes"):
        adapt(Shifted())
    y, log_det = adapt(Shifted(), condition_features=4)(X, X)
    torch.testing.assert_close(y, 2 * X)
    assert not log_det.any()


def test_zuko_conditions_are_read_off_the_audits():
    flow = zuko.flows.MAF(4, 3, transforms=1, hidden_features=(8,))
    condition = torch.randn(30, 3)
    assert audit(flow, X, condition=condition, options=QUICK).passed


def test_inexact_inverses_are_named():
    torch.manual_seed(0)
    record = audit(zuko.flows.BPF(4, transforms=1, hidden_features=(8,)), X, options=QUICK)
    # The polynomial is inverted by bisection, whose steps stop at 1e-6.
    assert 1e-8 < record.sets[0].control.worst < 1e-4
