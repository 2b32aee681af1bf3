"""Lipschitz bounds of a map and of its blocks, as a record that prints as a table."""

from __future__ import annotations

from dataclasses import dataclass

from invertible.ball import Ball, norms_of
from invertible.bijection import Domain, LipschitzBounds


@dataclass(frozen=True)
class BlockBounds:
    """Bounds of one block in a map.

    Attributes:
        path: where the block stands and what it is, such as `bijection.blocks[3] (AffineCoupling)`.
        kind: its class.
        domain: the boxes that reach it, on which its bounds hold; `None` for the whole space.
        bounds: of the block, the way in which the data passes it.
        product: of all blocks up to it, in the order of the data.
        reason: why a bound is infinite, empty if none is.
    """

    path: str
    kind: str
    domain: Domain | None
    bounds: LipschitzBounds
    product: LipschitzBounds
    reason: str = ""


@dataclass(frozen=True)
class LipschitzTable(LipschitzBounds):
    """Bounds of a map and of its inverse with those of its blocks; `print` shows them as a table.

    Attributes:
        blocks: bounds of the blocks that hold no further blocks, in the order in which the data passes them.
        domain: on which the bounds hold; `None` for the whole space.
        name: class of the map.
    """

    blocks: tuple[BlockBounds, ...] = ()
    domain: Domain | None = None
    name: str = "bijection"

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """(path, reason) of every block with an infinite bound."""
        return tuple((block.path, block.reason) for block in self.blocks if block.reason)

    def __str__(self) -> str:
        """The table: every block's bounds, their running product, and why one is infinite."""
        where = "on the whole space" if self.domain is None else f"on {_words(self.domain)}"
        head = (
            f"{self.name}: Lip(f) <= {_number(self.forward)}, Lip(f^-1) <= {_number(self.inverse)}, {where}.\n"
            "Certified upper bounds in exact arithmetic; their product over many blocks is seldom near the truth."
        )
        boxes = self.domain is not None
        names = ["block", *(["|x_i| <=", "|y_i| <="] if boxes else []), "Lip(f)", "Lip(f^-1)", "product", "of f^-1"]
        rows = [names, *(self._row(block, boxes=boxes) for block in self.blocks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([head, "", *lines, *self._notes()])

    def _row(self, block: BlockBounds, *, boxes: bool) -> list[str]:
        radii = [block.domain.x, block.domain.y] if boxes and block.domain is not None else []
        both = (block.bounds, block.product)
        return [block.path, *map(_number, (*radii, *(v for each in both for v in (each.forward, each.inverse))))]

    def _notes(self) -> list[str]:
        grouped: dict[str, list[str]] = {}
        for path, reason in self.reasons:
            grouped.setdefault(reason, []).append(path)
        notes = [""] if grouped else []
        for reason, paths in grouped.items():
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            notes.append(f"{paths[0]}{more}: {reason}")
        return notes


def _words(domain: Domain) -> str:
    if isinstance(domain, Ball):
        x, y = norms_of(domain)
        return f"|x|_2 <= {_number(x)}, |y|_2 <= {_number(y)}"
    return f"|x_i| <= {_number(domain.x)}, |y_i| <= {_number(domain.y)}"


def _number(value: float) -> str:
    return f"{value:.4g}"
