"""Traps for constant-memory training: what plain autograd takes for granted, one function a trap.

A trap is a function of a `Subject`. It returns nothing if all is well, or a sentence if it only informs; it raises
`WrongError` if something came out silently wrong, and lets the competitor's own errors through.
"""

from traps import (
    autograd_calls,
    buffers,
    compiled,
    distributed,
    in_place,
    inputs,
    inverses,
    precision,
    randomness,
    surroundings,
    transforms,
)

FAMILIES = (
    randomness,
    buffers,
    precision,
    inputs,
    surroundings,
    in_place,
    autograd_calls,
    transforms,
    compiled,
    distributed,
    inverses,
)
ROWS = {name: row for family in FAMILIES for name, row in family.ROWS.items()}
