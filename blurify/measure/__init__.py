"""Measure the effect of a conversion: plain functions on tensors that return percentages with their intervals."""
