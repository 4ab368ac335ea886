"""Modules of the programs in tools/.

    project                         where the folders are, and how a program starts
    errors, files, cli, report      refusals; safe writing; arguments and the way a program ends; tables
    networks, published             from a network to its symbol; the published figures
    graph/                          symbols as nodes: names, units, counts, planned memory
    params_file, checkpoints        files of weights
    targets, summaries              command-line arguments to networks, and their summaries
    deploy/                         plain and folded graphs, ONNX, comparison
    data/                           faces, drawn and read; pictures; records
    evaluation/                     verification of faces, error on ImageNet, embeddings
    training/                       tasks, trainer, loop, losses, state, log, checkpoints
    classification/                 ImageNet in PyTorch, with timm
    drawing/                        figures
    measure/                        time and memory, in MXNet, PyTorch, onnxruntime and OpenVINO; the report on a GPU

Imports go one way, `tests/test_house.py` says which, and have no effect: a program calls `project.start` first. Only
`_mxnet` sets the environment variables that MXNet reads, and imports it.
"""
