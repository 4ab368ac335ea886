"""What benchmarks/mutants.toml says of the code is still in it."""

import os

import pytest

from helpers import ROOT

tomllib = pytest.importorskip('tomllib')


def test_modules_tests_and_lines_exist():
    with open(os.path.join(ROOT, 'benchmarks', 'mutants.toml'), 'rb') as file:
        content = tomllib.load(file)
    for entry in content['by_hand']:
        for path in entry['tests'].split(' -k ')[0].split():
            assert os.path.exists(os.path.join(ROOT, path)), path
        with open(os.path.join(ROOT, entry['module']), encoding='utf-8') as file:
            assert entry['before'] in file.read(), entry
