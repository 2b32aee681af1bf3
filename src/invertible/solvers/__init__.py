"""Solvers of equations: fixed points, linear systems and ordinary differential equations, on plain functions."""
