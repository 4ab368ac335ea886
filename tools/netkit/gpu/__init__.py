"""What is true on a GPU, part by part and engine by engine; without a GPU the same parts run small, on the CPU.

A part is a module `torch_…`, `mxnet_…` or `onnx_…`, named in `parts`: its `cases(quick)` returns
{case: function}, and a function yields `harness.Figure`s as it measures them. Each part runs in a process of its own
(`running`), in which it may take memory until there is none, or end by a fault of the driver.
"""
