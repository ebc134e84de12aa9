"""Pad, filter, pool and subsample maps: one plain formulation, and faster ones that give the same."""
