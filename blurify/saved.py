"""Public names that pickles of converted models hold, next to the layers: a stable path.

A host is its original class and its state, a plan is its JSON, and a graph is the model that it was made of with the
plan.
"""

from blurify.graph.hosts import rebuild as host
from blurify.planning.plan import plan_from_json as plan
from blurify.rewriting.origin import graph

__all__ = ["graph", "host", "plan"]
