"""The same chain of reversible blocks under every way of keeping its activations.

y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1) on halves of the channels, or its affine form; every competitor wraps the very
networks F and G that it is given, so that weights and gradients can be compared. One module a library, in it
`additive(pairs, keep_rng, **options)` and, where the library has such a block, `affine(pairs, log_scale, keep_rng)`.
"""

import importlib
from dataclasses import dataclass, field

from torch import nn

from chains.nets import LogScale, Pairs

PLAIN, MINIMUM, GUARDED = "plain", "hand_min", "reversible"


@dataclass(frozen=True)
class Competitor:
    """Where a competitor is built, and what is to be said of it.

    Attributes:
        module: its module in this folder.
        options: what its builder is given beside the networks.
        growth: how memory and time are claimed to grow with the number of blocks L.
        note: for the reader of a table.
        reference: the same network with stored activations.
    """

    module: str
    options: dict = field(default_factory=dict)
    growth: str = ""
    note: str = ""
    reference: str = PLAIN

    @property
    def is_ours(self) -> bool:
        """Whether it is this library's."""
        return self.module == "with_invertible"


def _ours(memory: str, growth: str, note: str = "", reference: str = PLAIN) -> Competitor:
    return Competitor("with_invertible", {"memory": memory}, growth, note, reference)


STORED, ROOT, LOG, CONSTANT = "L, L", "√L, L", "log L, L log L", "1, L"
COMPETITORS = {
    "plain": Competitor("with_torch", {"saving": "all"}, STORED, "autograd stores everything"),
    "store": _ours("store", STORED, "invertible.Chain, everything stored"),
    "checkpoint": _ours("checkpoint", ROOT),
    "recursive": _ours("recursive", LOG),
    "reversible_bare": _ours("reversible_bare", CONSTANT, "Reversible(guard=False)"),
    "reversible_raise": _ours("reversible_raise", CONSTANT, "Reversible(on_failure='raise')"),
    "reversible": _ours("reversible", CONSTANT, "the default: guarded, repairs; holds the chain's input too"),
    "exact": _ours("exact", CONSTANT, "Exact(), on the grid 2⁻²⁰", "exact_store"),
    "exact_store": _ours("exact_store", STORED, "Exact(keep='store')", "exact_store"),
    "budget": _ours("budget", "1, L", "Budget('64MiB')"),
    "hand_min": Competitor("hand_minimum", {}, CONSTANT, "one autograd.Function, no care for anything"),
    "torch_block": Competitor("with_torch", {"saving": "block"}, STORED, "torch.utils.checkpoint, a block a segment"),
    "torch_root": Competitor("with_torch", {"saving": "root"}, ROOT, "checkpoint_sequential with √L segments"),
    "memcnn": Competitor("with_memcnn", {}, CONSTANT, "keep_input=False"),
    "revtorch": Competitor("with_revtorch", {}, CONSTANT),
    "revlib": Competitor("with_revlib", {"mode": "autograd_function"}, CONSTANT, "its default mode"),
    "revlib_graph": Competitor("with_revlib", {"mode": "autograd_graph"}, CONSTANT, "its mode autograd_graph"),
    "minrev": Competitor("with_minrev", {}, CONSTANT, "its ViT blocks replaced by ours"),
    "invtorch": Competitor("with_invtorch", {}, CONSTANT, "it has no coupling: forward and inverse are written here"),
    "freia": Competitor("with_freia", {}, STORED, "no form that saves memory"),
}
PACKAGES = ("memcnn", "revtorch", "revlib", "invtorch", "FrEIA")


def build(name: str, pairs: Pairs, *, log_scale: LogScale | None = None, keep_rng: bool = False) -> nn.Module | None:
    """The chain of a competitor, a module from x to y; `None` if it has no affine block and one is asked for.

    Args:
        name: of the competitor.
        pairs: the networks (F, G) of the blocks.
        log_scale: for affine blocks, whose networks return (raw, shift): the logarithm of the scale from raw.
        keep_rng: switch on the competitor's own option to restore the random state, where it has one.

    Raises:
        ImportError: if its library is not installed.
    """
    competitor = COMPETITORS[name]
    module = importlib.import_module(f"chains.{competitor.module}")
    if log_scale is None:
        return module.additive(pairs, keep_rng=keep_rng, **competitor.options)
    builder = getattr(module, "affine", None)
    return builder and builder(pairs, log_scale, keep_rng=keep_rng, **competitor.options)
