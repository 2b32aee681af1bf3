"""Solvers of ordinary differential equations: fixed, adaptive and reversible, and their gradients."""
