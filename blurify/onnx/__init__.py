"""The pass on ONNX graphs: the same plan as for PyTorch, carried out on the graph that is in the file.

A graph is mirrored as one of PyTorch's operators, so that sites are recognised and landings found by the same code.
The file's own messages are edited, so what is not edited stays the same bytes. Nothing here needs PyTorch's exporter.
"""
