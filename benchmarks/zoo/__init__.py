"""Every architecture of timm and torchvision through the pass: `python -m benchmarks.zoo --help`."""
