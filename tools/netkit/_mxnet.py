"""MXNet, imported in one place: `from netkit._mxnet import mx`.

MXNet reads environment variables when it is imported. Only this module sets this process's. Programs that start
other programs (measure.py, launch_local.py) do not import this module first, so they pass on their own environment.
"""

import contextlib
import os

# MXNet takes one thread for two CPUs, on the guess that they share a core; on two real cores that made training
# 1.7 times slower (benchmarks/NOTES.md).
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
os.environ.setdefault('OMP_NUM_THREADS', str(CPUS))
# MXNet's wheel contains OpenBLAS 0.3.13, which falls back to kernels of 2004 on processors that it does not know: half
# as fast, on a Xeon of 2023, as its kernels for AVX2.
with contextlib.suppress(OSError), open('/proc/cpuinfo') as _cpuinfo:
    if ' avx2 ' in _cpuinfo.read(1 << 16):
        os.environ.setdefault('OPENBLAS_CORETYPE', 'Haswell')
# Silences one line per executor about a graph backend that is always on.
os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')

import mxnet as mx  # noqa: E402, F401
