"""Three libraries' flows under one audit: `python docs/figures/adapters.py` writes docs/images/adapters.png."""

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import FrEIA.framework as Ff
import FrEIA.modules as Fm
import matplotlib.pyplot as plt
import normflows as nf
import torch
import zuko
from torch import nn

import invertible as inv

FEATURES, COUPLINGS, HIDDEN, STEPS, BATCH = 64, 8, 128, 1500, 128
INK, SOFT = "#1f2937", "#9ca3af"
LOST = 1e20


def dense(inputs: int, outputs: int) -> nn.Module:
    """The conditioner that all of them get."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


def with_normflows() -> nn.Module:
    """Couplings of halves that change places."""
    layers = []
    for _ in range(COUPLINGS):
        net = nf.nets.MLP([FEATURES // 2, HIDDEN, HIDDEN, FEATURES], init_zeros=True)
        layers += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(FEATURES, mode="swap")]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(FEATURES, trainable=False), layers)


def with_zuko() -> nn.Module:
    """The library's RealNVP."""
    return zuko.flows.RealNVP(FEATURES, transforms=COUPLINGS, hidden_features=(HIDDEN, HIDDEN))


def with_freia() -> nn.Module:
    """The library's blocks of coupling, scaling and permutation."""
    network = Ff.SequenceINN(FEATURES)
    for _ in range(COUPLINGS):
        network.append(Fm.AllInOneBlock, subnet_constructor=dense)
    return network


LIBRARIES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "FrEIA, AllInOneBlock": (with_freia, "#059669", "s"),
    "normflows, AffineCouplingBlock": (with_normflows, "#d97706", "D"),
    "zuko, RealNVP": (with_zuko, "#2563eb", "o"),
}


def trained(theirs: nn.Module, x: torch.Tensor) -> float:
    """Train as a density: every library's flow by the same lines, thanks to `adapt`. Returns the last loss."""
    ours = inv.adapt(theirs)
    flow = ours if isinstance(ours, inv.Flow) else inv.Flow(ours, inv.StandardNormal((FEATURES,)))
    optimizer, last = torch.optim.Adam(flow.parameters(), 1e-3), []
    for step in range(STEPS):
        rows = x[torch.randint(len(x), (BATCH,))]
        loss = -flow.log_prob((rows + torch.rand_like(rows)) / 17).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= STEPS - 100:
            last.append(loss.item())
    return sum(last) / len(last)


def worst_errors(report: inv.stability.AuditRecord) -> dict[str, tuple[float, int]]:
    """Largest error of each set, infinite where a sample is lost, and how many are."""
    found = {}
    for one in report.sets:
        measured = [each for each in (one.data, one.latent) if each is not None]
        found[one.name] = (max(each.worst for each in measured), max(each.non_finite for each in measured))
    return found


def measured() -> dict[str, tuple[float, dict[str, tuple[float, int]]]]:
    """Train and audit each: its loss in nats, and what `worst_errors` says."""
    digits = inv.data.load("digits")
    torch.manual_seed(0)
    train, test = (part.x.flatten(1).float() for part in (digits.train, digits.test))
    unseen, found = (test + torch.rand_like(test)) / 17, {}
    for name, (build, _, _) in LIBRARIES.items():
        torch.manual_seed(0)
        theirs = build()
        loss = trained(theirs, train)
        report = inv.audit(theirs.eval(), unseen, samples=len(unseen), sections=())
        found[name] = loss, worst_errors(report.record)
        figures = ", ".join(f"{key} {error:.1e} ({lost} lost)" for key, (error, lost) in found[name][1].items())
        print(f"{name}: {loss:.1f} nats; {figures}")
    return found


def draw(found: dict[str, tuple[float, dict[str, tuple[float, int]]]]) -> None:
    """One row a set, one mark a library."""
    figure, axis = plt.subplots(figsize=(9, 5.4), layout="constrained")
    for row, (name, (loss, errors)) in enumerate(found.items()):
        _, colour, marker = LIBRARIES[name]
        heights = [position + 0.22 * (row - 1) for position in range(len(errors))]
        values = [error if math.isfinite(error) else LOST for error, _ in errors.values()]
        axis.hlines(heights, 1e-8, values, color=colour, lw=1.2, alpha=0.35)
        axis.scatter(values, heights, color=colour, marker=marker, s=34, label=f"{name} ({loss:.0f} nats)", zorder=3)
        for height, (_, lost) in zip(heights, errors.values(), strict=True):
            if lost:
                axis.text(2.5 * LOST, height, f"{lost} lost", color=colour, va="center", fontsize=8)
    names = list(next(iter(found.values()))[1])
    for error, text, colour in ((1e-3, "tolerance", INK), (1.0, "nothing left", SOFT)):
        axis.axvline(error, color=colour, ls=":", lw=1)
        axis.text(1.6 * error, -0.55, text, color=colour, fontsize=8, va="center")
    axis.set(xscale="log", xlim=(1e-8, 1e24), ylim=(len(names) - 0.5, -0.8))
    exponents = (-8, -6, -4, -2, 0, 4, 8, 12, 16)
    axis.set_xticks([*(10.0**k for k in exponents), LOST], [*(f"$10^{{{k}}}$" for k in exponents), "lost"])
    axis.minorticks_off()
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("worst relative error of a round trip, 180 samples a set, float32", color=INK)
    axis.set_title("Eight affine couplings, trained alike on digits, audited alike", loc="left", color=INK, fontsize=12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0, colors=INK)
    axis.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(0.82, 0.1))
    path = Path(__file__).parents[1] / "images" / "adapters.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    draw(measured())
