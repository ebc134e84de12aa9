"""Public names that pickles of converted models hold, next to the layers: a stable path.

A host is its original class and its state, a plan is its JSON, and a graph is the model that it was made of with the
plan.
"""

from blurify.hosts import rebuild as host
from blurify.origin import graph
from blurify.planning import plan_from_json as plan

__all__ = ["graph", "host", "plan"]
