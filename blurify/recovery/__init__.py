"""A converted network that works again without labels: its weights refitted to what the original computes."""
