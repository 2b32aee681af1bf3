"""Whether check_determinism finds what changes a network's bits, says so, and leaves no trace."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import invertible as inv
from invertible import ConfigError, ShapeError
from invertible.memory.determinism import DeterminismReport, Finding, check_determinism

TRAINING = ("no_grad", "input with grad", "input a half")
ALONE = ("inference_mode", "input an odd part", "memory format", "threads", "batch of one", "half the batch")


def mlp(features: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 32), nn.SiLU(), nn.Linear(32, features))


class Map(nn.Module):
    """A module from a function."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *inputs):
        return self.function(self, *inputs)


class Sensitive(nn.Module):
    """A little more than the identity where a condition on the input holds."""

    def __init__(self, holds, size: float):
        super().__init__()
        self.holds, self.size = holds, size

    def forward(self, x):
        return x * (1 + self.size * self.holds(x))


# What each change looks like from inside a module.
SEEN = {
    "no_grad": lambda x: not torch.is_grad_enabled() and not torch.is_inference_mode_enabled(),
    "input with grad": lambda x: x.requires_grad,
    "input a half": lambda x: x.storage_offset() == x[0].numel(),
    "autocast": lambda x: torch.is_autocast_enabled("cpu"),
    "inference_mode": lambda x: torch.is_inference_mode_enabled(),
    "input an odd part": lambda x: x.storage_offset() == x[0, 0].numel(),
    "memory format": lambda x: not x.is_contiguous() and x.storage_offset() == 0,
    "batch of one": lambda x: len(x) == 1,
    "half the batch": lambda x: len(x) == 4,
}


def other_verdicts(report: DeterminismReport, *names: str) -> set[str]:
    return {each.verdict for each in report.findings if each.name not in names}


# Nothing to find.


@pytest.mark.parametrize(
    "net", [mlp(), nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU())], ids=["mlp", "norm"]
)
def test_a_plain_network_passes(net):
    report = check_determinism(net, torch.randn(64, 16))
    assert report.passed
    assert report.exact_ok
    assert {report[name].verdict for name in (*TRAINING, "run again", "random numbers", "buffers", "parameters")} == {
        "same"
    }
    assert {each.verdict for each in report.findings if each.verdict != "same" and each.in_training} <= {"not run"}


def test_a_convolution_passes_in_float64(float64):
    report = check_determinism(nn.Conv2d(3, 3, 3, padding=1), torch.randn(8, 3, 6, 6))
    assert report.exact_ok
    assert report["autocast"].verdict == "same"  # leaves float64 alone
    assert report["memory format"].verdict in ("same", "differs")


# Every change on its own, by a module that shows it.


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize(("size", "training"), [(1e-6, "differs"), (0.5, "fatal")])
def test_each_change_is_found(name, size, training):
    report = check_determinism(Sensitive(SEEN[name], size), torch.randn(8, 6, 3, 3))
    expected = "restored" if name == "autocast" else training if name in TRAINING else "differs"
    assert report[name].verdict == expected
    assert report[name].relative == pytest.approx(size, rel=0.1)
    assert report[name].explanation.endswith(".")
    assert other_verdicts(report, name) <= {"same", "not run"}
    assert report.passed is (expected != "fatal")
    assert report.exact_ok is (name not in TRAINING)
    assert f"not for Exact: {name}" in str(report) or report.exact_ok or f"failed: {name}\n" in str(report)


def test_threads():
    torch.set_num_threads(2)
    try:
        report = check_determinism(Sensitive(lambda x: torch.get_num_threads() == 1, 1e-6), torch.randn(8, 4))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert report["threads"].verdict == "differs"
    assert report.exact_ok
    assert check_determinism(nn.Linear(4, 4), torch.randn(8, 4))["threads"].explanation == "one thread is in use"


def test_autocast_that_is_on_is_switched_off():
    with torch.autocast("cpu", torch.bfloat16):
        report = check_determinism(Sensitive(SEEN["autocast"], 0.5), torch.randn(8, 4))
        assert torch.is_autocast_enabled("cpu")
    assert report["autocast"].verdict == "restored"
    assert report["run again"].verdict == "same"


def test_train_and_eval():
    net = Map(lambda self, x: x * (2 if self.training else 3))
    assert check_determinism(net, torch.randn(8, 4))["train/eval"].verdict == "restored"
    assert net.training
    assert "(eval mode, " in str(check_determinism(net.eval(), torch.randn(8, 4)))


def test_a_module_that_needs_grad_is_fatal():
    def derivative(self, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(x.sin().sum(), x)[0]

    report = check_determinism(Map(derivative), torch.randn(8, 4))
    assert report["no_grad"].verdict == "fatal"
    assert "It raises RuntimeError" in report["no_grad"].explanation
    assert report["inference_mode"].verdict == "not run"
    assert not report.passed


# What the strategies restore.


def test_dropout_is_restored():
    report = check_determinism(nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5)), torch.randn(64, 16))
    assert report["random numbers"].verdict == "restored"
    assert report["random numbers"].relative > 0.1
    assert report["run again"].verdict == "same"
    assert "draws other random numbers" in report["batch of one"].explanation
    assert report.exact_ok


def test_dropout_in_eval_mode_draws_nothing():
    assert check_determinism(nn.Dropout(0.5).eval(), torch.randn(64, 16))["random numbers"].verdict == "same"


def test_dropout_depends_on_the_memory_format():
    report = check_determinism(nn.Dropout(0.5), torch.randn(4, 8, 6, 6))
    assert report["memory format"].verdict == "differs"
    assert report["memory format"].relative > 0.1
    assert report.exact_ok


def test_running_statistics_are_found_without_a_trace_in_their_version():
    report = check_determinism(nn.BatchNorm2d(3), torch.randn(8, 3, 4, 4))
    assert report["buffers"].verdict == "restored"
    assert report["buffers"].difference == 0
    assert "running_mean, running_var" in report["buffers"].explanation
    assert report["batch of one"].relative > 0.01
    assert report.passed


def test_what_a_module_refuses_is_not_run():
    report = check_determinism(nn.BatchNorm1d(4), torch.randn(8, 4))
    assert report["batch of one"].verdict == "not run"
    assert "ValueError" in report["batch of one"].explanation
    assert check_determinism(nn.BatchNorm1d(4).eval(), torch.randn(8, 4))["buffers"].verdict == "same"


def test_vectors_of_spectral_norm_are_restored():
    report = check_determinism(spectral_norm(nn.Linear(16, 16), n_power_iterations=1), torch.randn(8, 16))
    assert report["buffers"].verdict == "restored"
    assert report["buffers"].difference > 0
    assert "._u" in report["buffers"].explanation
    assert report["run again"].verdict == "same"


class Average(nn.Module):
    """Subtracts an average that moves through .data, or in the open."""

    def __init__(self, hidden):
        super().__init__()
        self.hidden = hidden
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x):
        average = self.average.data if self.hidden else self.average
        return x - average.lerp_(x.mean(), 0.5)


@pytest.mark.parametrize(("hidden", "verdict"), [(True, "fatal"), (False, "restored")])
def test_a_buffer_that_changes_behind_the_back_is_fatal(hidden, verdict):
    report = check_determinism(Average(hidden), torch.randn(8, 4) + 1)
    assert report["buffers"].verdict == verdict
    assert report["run again"].verdict == "same"
    assert report.passed is not hidden


# Attention and recurrence.


def test_the_fast_path_of_attention():
    layer, x = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval(), torch.randn(16, 5, 32)
    report = check_determinism(layer, x)
    assert report["attention fast path"].verdict == "differs"
    assert report["no_grad"].difference == report["attention fast path"].difference
    assert report.passed
    assert not report.exact_ok
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        report = check_determinism(layer, x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert report["attention fast path"].explanation == "switched off"
    assert report.exact_ok


def test_attention_in_train_mode_has_no_fast_path():
    report = check_determinism(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), torch.randn(16, 5, 32))
    assert report["attention fast path"].verdict == "same"
    assert report["random numbers"].verdict == "restored"
    assert report.exact_ok


def test_recurrence():
    report = check_determinism(nn.LSTM(16, 16, batch_first=True), torch.randn(16, 5, 16))
    assert report.passed
    assert report["no_grad"].verdict in ("same", "differs")  # oneDNN has a kernel of its own without grad
    # The state has the batch on axis 1 and takes no part.
    assert report["batch of one"].relative < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, on setting the flags
        with torch.backends.mkldnn.flags(enabled=False):
            report = check_determinism(nn.LSTM(16, 16, batch_first=True), torch.randn(16, 5, 16))
    assert report.exact_ok


# What nothing restores.


def numpy_noise(self, x):
    return x + torch.from_numpy(np.random.randn(*x.shape))  # noqa: NPY002 - as others draw


def python_noise(self, x):
    return x + random.random()


def own_noise(self, x):
    return x + torch.rand(x.shape, generator=self.noise)


def own_numpy_noise(self, x):
    return x + torch.from_numpy(self.noise.random(tuple(x.shape)))


def counted(self, x):
    self.calls += 1
    return x + self.calls


def elsewhere(self, x, calls=[]):  # noqa: B006 - a state that nobody sees
    calls.append(x)
    return x * len(calls)


@pytest.mark.parametrize(
    ("net", "cause"),
    [
        (Map(numpy_noise), "numpy.random"),
        (Map(python_noise), "Python's random"),
        (nn.Sequential(Map(own_noise, noise=torch.Generator())), "0.noise"),
        (Map(own_numpy_noise, noise=np.random.default_rng(1)), "noise"),
        (Map(lambda self, x: x + self.noise.random(), noise=random.Random(1)), "noise"),
        (Map(counted, calls=0), "changes calls in every call"),
        (Map(elsewhere), "something that changes between calls"),
    ],
    ids=["numpy", "random", "generator", "numpy generator", "random object", "count", "unseen"],
)
def test_a_network_that_does_not_repeat_itself_is_fatal(net, cause, float64):
    report = check_determinism(net, torch.randn(8, 4))
    assert report["run again"].verdict == "fatal"
    assert cause in report["run again"].explanation
    assert other_verdicts(report, "run again") == {"same", "not run"}
    assert report["no_grad"].explanation == "no two runs are alike"
    assert not report.passed


def test_sums_in_another_order_each_time_are_not_fatal():
    def forward(self, x, calls=[]):  # noqa: B006
        calls.append(x)
        return x * (1 + 1e-6 * (len(calls) % 2))

    report = check_determinism(Map(forward), torch.randn(8, 4))
    assert report["run again"].verdict == "differs"
    assert "use_deterministic_algorithms" in report["run again"].explanation
    assert report.passed
    assert not report.exact_ok


@pytest.mark.parametrize(
    "net", [nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), Map(lambda self, x: x.data.mul_(2) + 1)]
)
def test_an_input_changed_in_place_is_fatal(net):
    x = torch.randn(8, 4)
    before = x.clone()
    report = check_determinism(net, x)
    assert report["input kept"].verdict == "fatal"
    assert report["run again"].verdict == "same"
    assert torch.equal(x, before)


def test_values_that_are_not_finite_are_fatal():
    report = check_determinism(Map(lambda self, x: x.log()), torch.randn(8, 4).abs() * torch.tensor([-1.0, 1, 1, 1]))
    assert report["finite output"].verdict == "fatal"
    assert "8 of 32" in report["finite output"].explanation
    assert report["run again"].verdict == "same"


def test_an_output_in_the_input_s_memory_is_noted():
    report = check_determinism(nn.Flatten(), torch.randn(8, 2, 2))
    assert report["output memory"].verdict == "same"
    assert "output memory: The output is the input's memory" in str(report)
    assert report.exact_ok


# Parameters that the forward sets.


class Centre(nn.Module):
    """Sets its centre by its first batch."""

    def __init__(self):
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(4))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x):
        if not self.ready:
            with torch.no_grad():
                self.centre.copy_(x.mean(0))
                self.ready.fill_(True)
        return x - self.centre


@pytest.mark.parametrize("net", [Centre(), inv.ActNorm(4)], ids=["centre", "actnorm"])
def test_a_module_that_sets_itself_by_its_first_batch(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    report = check_determinism(net, torch.randn(8, 4) + 5)
    assert report["parameters"].verdict == "restored"
    assert report["run again"].verdict == "same"
    assert report["buffers"].verdict == "same"
    assert report["batch of one"].relative < 1e-6
    assert report.exact_ok
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_first_call_that_differs_is_told_apart():
    class Late(Centre):
        def forward(self, x):
            size = 1e-6 * bool(self.ready)
            return super().forward(x) * (1 + size)

    report = check_determinism(Late(), torch.randn(8, 4))
    assert report["run again"].verdict == "differs"
    assert "The first call, which sets centre, gives other bits." in report["run again"].explanation
    assert report["no_grad"].verdict == "same"


def test_parameters_changed_by_every_call_are_fatal():
    def forward(self, x):
        with torch.no_grad():
            self.scale.mul_(0.9)
        return x * self.scale

    report = check_determinism(Map(forward, scale=nn.Parameter(torch.ones(()))), torch.randn(8, 4))
    assert report["parameters"].verdict == "fatal"
    assert "scale" in report["run again"].explanation


# No traces.


class Restless(nn.Module):
    """Changes all that a module can change, and may fail at the end."""

    def __init__(self, fails=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", None)
        self.norm, self.frozen = nn.BatchNorm1d(4), nn.Dropout().eval()
        self.generator, self.state, self.calls, self.fails = torch.Generator(), torch.zeros(4), 0, fails

    def forward(self, x):
        self.weight.data = self.weight.data * 2
        self.count += 1
        self.last, self.extra, self.calls = x, x, self.calls + 1
        self.register_buffer("new", x)
        self.state.add_(1)
        self.frozen.train()
        noise = torch.rand(4, generator=self.generator) + torch.rand(4) + float(np.random.rand()) + random.random()  # noqa: NPY002
        if self.fails:
            raise KeyError("as it is")
        return self.norm(x) * self.weight + noise


def world(net: nn.Module) -> dict[str, object]:
    """All that must not change."""
    tensors = {name: value.clone() for name, value in net.state_dict(keep_vars=True).items()}
    return {
        **{name: value.tolist() for name, value in tensors.items()},
        "objects": [id(value) for value in net.state_dict(keep_vars=True).values()],
        "modes": [each.training for each in net.modules()],
        "attributes": sorted(vars(net)),
        "calls": getattr(net, "calls", None),
        "state": net.state.tolist() if hasattr(net, "state") else None,
        "own": net.generator.get_state().tolist() if hasattr(net, "generator") else None,
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize(
    "net",
    [
        Restless(),
        nn.Sequential(spectral_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Dropout()),
        nn.Sequential(nn.BatchNorm1d(4).eval(), nn.Dropout().eval()),
    ],
    ids=["restless", "train", "mixed"],
)
def test_the_module_is_untouched(net, unchecked_types):
    before = world(net)
    x = torch.randn(8, 4, requires_grad=True)
    before["torch"] = torch.get_rng_state().tolist()
    with unchecked_types():  # the check itself draws from Python's random
        check_determinism(net, x)
    assert world(net) == before
    assert all(parameter.grad is None for parameter in net.parameters())
    assert x.grad is None


def test_an_exception_comes_through_and_leaves_no_trace(unchecked_types):
    net, x = Restless(fails=True), torch.randn(8, 4)
    before = world(net)
    with unchecked_types(), pytest.raises(KeyError, match="as it is"):
        check_determinism(net, x)
    assert world(net) == before


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_caller_s_grad_mode_does_not_matter(context):
    with context():
        report = check_determinism(Sensitive(SEEN["no_grad"], 0.5), torch.randn(8, 4))
        assert not torch.is_grad_enabled()
    assert report["no_grad"].verdict == "fatal"


# Inputs and outputs of other kinds.


def test_many_inputs_and_a_nest_of_outputs():
    net = Map(lambda self, x, c: {"sum": x + c, "rest": [(x.mean(), None), c[0]]})
    report = check_determinism(net, (torch.randn(8, 4), torch.randn(8, 4)))
    assert report.passed
    assert report["batch of one"].verdict == "same"
    net = Map(lambda self, x: x.mean())
    assert report["batch of one"].in_training is False
    assert check_determinism(net, torch.randn(8, 4))["batch of one"].explanation == "no output has the batch on axis 0"


def test_integers_and_single_rows():
    report = check_determinism(nn.Embedding(5, 3), torch.randint(5, (1,)))
    assert report.exact_ok
    assert report["input with grad"].explanation == "needs an input of floating-point numbers"
    assert report["input a half"].explanation == "needs an axis of channels"
    assert report["batch of one"].explanation == report["half the batch"].explanation == "needs a larger batch"


# The report.


def test_the_table_is_aligned():
    report = DeterminismReport(
        "Net",
        "train mode, float32 on cpu",
        (
            Finding("run again", "same"),
            Finding("no_grad", "differs", 1.25e-7, 3e-8, "Do this."),
            Finding("memory format", "not run", float("nan"), float("nan"), "needs an input of 4 or 5 axes", False),
            Finding("batch of one", "differs", 2e-7, 1e-7, "Do that.", False),
        ),
    )
    assert str(report) == (
        "Net (train mode, float32 on cpu): passed, but not for Exact: no_grad\n"
        "change        verdict  difference  relative\n"
        "run again     same\n"
        "no_grad       differs  1.2e-07     3.0e-08\n"
        "batch of one  differs  2.0e-07     1.0e-07\n"
        "no_grad: Do this.\n"
        "batch of one: Do that.\n"
        "not run: memory format (needs an input of 4 or 5 axes)"
    )
    with pytest.raises(KeyError):
        report["grad"]


def test_a_report_that_fails_names_what_is_fatal():
    report = DeterminismReport("Net", "", (Finding("no_grad", "differs"), Finding("input kept", "fatal", float("nan"))))
    assert str(report).startswith("Net (): failed: input kept\n")
    assert not report.passed
    assert not report.exact_ok


# Errors.

LAZY = nn.LazyLinear(3)


@pytest.mark.parametrize(
    ("net", "example", "error", "message"),
    [
        (torch.sin, torch.ones(2, 2), ConfigError, "expected a torch.nn.Module, got builtin_function.*Wrap a function"),
        (
            LAZY,
            torch.ones(2, 2),
            ConfigError,
            "expected an initialised module, got lazy parameters. Call it once before",
        ),
        (
            Map(lambda self, x: None),
            torch.ones(2, 2),
            ConfigError,
            "expected a module that returns tensors, got none. Wrap",
        ),
        (
            nn.Linear(2, 2),
            [torch.ones(2, 2)],
            ShapeError,
            "expected example to be a tensor or a tuple .*, got list. Convert",
        ),
        (nn.Linear(2, 2), (), ShapeError, r"expected example to be a tensor or a tuple of tensors, got \(\). Convert"),
        (nn.Linear(2, 2), (torch.ones(2), 1), ShapeError, r"expected .*, got \(Tensor, int\). Convert"),
        (nn.Linear(2, 2), torch.ones(()), ShapeError, r"expected example of shape \(batch, ...\).*, got \(\). Wrap"),
        (
            nn.Linear(2, 2),
            torch.ones(0, 2),
            ShapeError,
            r"expected example of shape \(batch, ...\).*, got \(0, 2\). Wrap",
        ),
        (
            nn.Linear(2, 2),
            (torch.ones(3, 2), torch.ones(2, 2)),
            ShapeError,
            r"alike in all .* got \(3, 2\), \(2, 2\). Wrap",
        ),
        (
            nn.Linear(2, 2),
            torch.ones(2, 2, device="meta"),
            ShapeError,
            "expected example on cpu, .*, got meta. Move one",
        ),
    ],
)
def test_errors(net, example, error, message, unchecked_types):
    with unchecked_types(), pytest.raises(error, match=f"^check_determinism: .*{message}.*\\.$"):
        check_determinism(net, example)


@pytest.mark.filterwarnings("ignore")  # of torch, that scripts are deprecated
def test_scripts_are_refused():
    net = nn.Sequential(torch.jit.trace(nn.Linear(2, 2), torch.ones(2, 2)))
    with pytest.raises(ConfigError, match="^check_determinism: expected a module in Python, got a ScriptModule. Check"):
        check_determinism(net, torch.ones(2, 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_against_eager():
    net, x = mlp(), torch.randn(16, 16)
    found = check_determinism(net, x, compile=True)["compiled"]
    assert found.verdict in ("same", "differs")
    assert found.relative < 1e-5
    assert check_determinism(torch.compile(net), x, compile=True)["compiled"].difference == found.difference
    assert check_determinism(net, x)["compiled"].explanation == "pass compile=True"
