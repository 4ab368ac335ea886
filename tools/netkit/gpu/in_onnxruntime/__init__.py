"""The parts in onnxruntime, in a Python that has PyTorch as well."""
