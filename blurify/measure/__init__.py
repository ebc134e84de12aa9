"""What the rewrite did: plain functions on tensors that return percentages with their intervals."""
