"""Traced models, and edits of their graphs and module trees."""
