"""Which cards there are, and whether MXNet's code runs on them; a driver and libraries stand in for the real ones."""

import os
import struct
import subprocess

import pytest

import gpu_env
from netkit import cuda

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device ? "card B" : "card A", length);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device ? 81559 : 11264) << 20; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device ? 9 : 6) : attribute == 76 ? (device ? 0 : 1) : -1;
    return 0;
}
"""


def driver(folder, init=0, source=DRIVER):
    """Return the path of a library that answers as a driver of two cards."""
    code, library = folder / 'driver.c', folder / 'libcuda.so.1'
    code.write_text(source)
    subprocess.run(['gcc', '-shared', '-fPIC', f'-DINIT={init}', '-o', str(library), str(code)], check=True)
    return str(library)


def test_the_driver_names_the_cards(tmp_path):
    assert cuda.cards(driver(tmp_path)) == [('card A', (6, 1), 11264), ('card B', (9, 0), 81559)]


@pytest.mark.parametrize('source', [DRIVER.replace('INIT;', '100;'), 'int cuInit(unsigned flags) { return 0; }', ''])
def test_a_driver_that_does_not_answer_has_no_cards(tmp_path, source):
    assert cuda.cards(driver(tmp_path, source=source)) == []
    assert cuda.cards(str(tmp_path / 'none.so')) == []


def container(*entries, size=None):
    """Return what nvcc embeds for entries of (kind, compute capability × 10, bytes of code)."""
    body = b''.join(
        struct.pack('<HHIQIIII', kind, 1, 64, length, 0, 0, 0, capability) + bytes(32) + b'x' * length
        for kind, capability, length in entries
    )
    return struct.pack('<IHHQ', 0xBA55ED50, 1, 16, len(body) if size is None else size) + body


CHANCE = struct.pack('<I', 0xBA55ED50)


@pytest.mark.parametrize(
    'content, found',
    [
        (
            b'ELF' + container((2, 50, 5), (2, 86, 100)) + b'junk' + container((1, 86, 3), (2, 120, 7)),
            {(2, (5, 0)), (2, (8, 6)), (1, (8, 6)), (2, (12, 0))},
        ),
        # One kernel of three that is for a newer card, too.
        (container((2, 80, 9)) * 2 + container((2, 80, 9), (2, 90, 9)), {(2, (8, 0))}),
        (CHANCE + bytes(40) + CHANCE * 3 + container((2, 70, 0)), {(2, (7, 0))}),
        (container((2, 70, 8))[:-60], set()),  # cut within the header of its entry
        (container((2, 70, 8), size=2**63), {(2, (7, 0))}),
        (container((2, 70, 8)) + CHANCE, {(2, (7, 0))}),
        (b'nothing of the kind', set()),
        (b'', set()),
    ],
    ids=('two', 'a few', 'by chance', 'cut', 'too long', 'cut behind', 'none', 'empty'),
)
def test_the_code_in_a_library(tmp_path, content, found):
    """Also in one that is damaged or made to mislead: it is only read, and the reading ends."""
    path = tmp_path / 'library.so'
    path.write_bytes(content)
    assert cuda.kernels(str(path)) == found


def test_what_runs_where():
    """By NVIDIA's rules; the code is that of mxnet-cu112 1.9.1, as check_gpu_install.py prints it."""
    of_mxnet = {(cuda.MACHINE_CODE, divmod(number, 10)) for number in (50, 60, 70, 80, 86)}
    assert cuda.listed(of_mxnet) == '5.0, 6.0, 7.0, 8.0, 8.6'
    cards = {
        (3, 7): False,
        (5, 2): True,
        (6, 1): True,
        (7, 5): True,
        (8, 0): True,
        (8, 9): True,
        (9, 0): False,
        (12, 0): False,
    }
    assert {capability: cuda.runs_on(of_mxnet, capability) for capability in cards} == cards
    assert not cuda.runs_on({(cuda.MACHINE_CODE, (8, 6))}, (8, 0))
    with_ptx = {(cuda.PTX, (8, 0))}
    assert cuda.runs_on(with_ptx, (9, 0)) and cuda.runs_on(with_ptx, (8, 0)) and not cuda.runs_on(with_ptx, (7, 5))
    assert cuda.listed(with_ptx) == '8.0+'


@pytest.mark.parametrize(
    'code, words', [((2, 86), ('yes', 'no: it has code for 8.6 only')), (None, ('it is not there, or not for CUDA',))]
)
def test_gpu_env_tells_whether_mxnet_runs_on_the_card(run_tool, monkeypatch, tmp_path, code, words):
    library = tmp_path / 'libmxnet.so'
    library.write_bytes(container((*code, 9)) if code else b'of a CPU')
    monkeypatch.setattr(cuda, 'library_of_mxnet', lambda: str(library))
    monkeypatch.setattr(
        cuda, 'cards', lambda: [cuda.Card('NVIDIA A10', (8, 6), 22731), cuda.Card('NVIDIA H100', (9, 0), 81559)]
    )
    _, out, err = run_tool(gpu_env)
    lines = [line for line in err.splitlines() if 'NVIDIA ' in line]
    assert len(lines) == 2 and '22,731' in lines[0] and '9.0' in lines[1] and out.startswith('export LD_LIBRARY_PATH=')
    assert words[0] in lines[0] and words[-1] in lines[1]
    assert 'H100' not in out


def test_the_library_of_this_mxnet():
    assert os.path.basename(cuda.library_of_mxnet()) == 'libmxnet.so' and cuda.kernels(cuda.library_of_mxnet()) == set()
