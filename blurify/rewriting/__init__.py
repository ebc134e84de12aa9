"""Carry a plan out: on a graph, or on a copy of the model's own module tree."""
