"""A plan carried out on the model's own module tree, so that the result is of the model's own class.

Strides become 1 on the modules that have them, and blurs are put into modules (`blurify.graph.hosts`) at whose call
the graph form has its blur. A plan speaks of calls and a tree of modules has none, so not everything can be said: what
cannot is listed.
"""

from blurify.rewriting.keep.converting import keep_class

__all__ = ["keep_class"]
