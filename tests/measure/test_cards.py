"""Which GPUs there are, and whether MXNet's code runs on them; a driver and libraries stand in for the real ones."""

import subprocess

import pytest

import measure
from netkit.measure import cuda

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device ? "GPU B" : "GPU A", length);
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
    assert cuda.cards(driver(tmp_path)) == [('GPU A', (6, 1), 11264), ('GPU B', (9, 0), 81559)]


@pytest.mark.parametrize('source', [DRIVER.replace('INIT;', '100;'), 'int cuInit(unsigned flags) { return 0; }', ''])
def test_a_driver_that_does_not_answer_has_no_cards(tmp_path, source):
    assert cuda.cards(driver(tmp_path, source=source)) == []
    assert cuda.cards(str(tmp_path / 'none.so')) == []


def test_what_runs_where():
    """By NVIDIA's rules."""
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
    assert {capability: cuda.runs_on(capability) for capability in cards} == cards


def test_the_libraries_tell_whether_mxnet_runs_on_the_card(run_tool, monkeypatch):
    monkeypatch.setattr(
        cuda, 'cards', lambda: [cuda.Card('NVIDIA A10', (8, 6), 22731), cuda.Card('NVIDIA H100', (9, 0), 81559)]
    )
    _, out, err = run_tool(measure, 'libraries')
    lines = [line for line in err.splitlines() if 'NVIDIA ' in line]
    assert len(lines) == 2 and '22,731' in lines[0] and '9.0' in lines[1] and out.startswith('export LD_LIBRARY_PATH=')
    assert 'yes' in lines[0] and 'no: it has code for 5.0, 6.0, 7.0, 8.0, 8.6 only' in lines[1]
    assert 'H100' not in out
