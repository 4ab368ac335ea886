"""The pages: every link leads somewhere, every page is linked, and what is pasted names what exists."""

import argparse
import glob
import importlib
import os
import re
import shlex
import subprocess
import sys
import tokenize

import pytest

import config as host
import paper
from helpers import ROOT, shape_of, size_of
from host.layouts import lay_out
from netkit.graph.naming import is_original

PAGES = sorted(
    os.path.relpath(path, ROOT)
    for pattern in ('*.md', 'docs/*.md', 'benchmarks/*.md')
    for path in glob.glob(os.path.join(ROOT, pattern))
)


with open(os.path.join(ROOT, 'tests', 'words.txt'), encoding='utf-8') as file:
    STUMBLING = re.compile('|'.join(line for line in file.read().splitlines() if line and line[0] != '#'), re.I)
SOURCES = ['Makefile', 'pyproject.toml', 'patch_insightface.py', 'hubconf.py'] + sorted(
    os.path.relpath(path, ROOT)
    for folder in ('symbols', 'config', 'patcher', 'backbones', 'tools', 'benchmarks', 'tests')
    for path in glob.glob(os.path.join(ROOT, folder, '**', '*.py'), recursive=True)
)


def read(page):
    with open(os.path.join(ROOT, page), encoding='utf-8') as file:
        return file.read()


@pytest.mark.parametrize('page', PAGES)
def test_links(page):
    for target in re.findall(r'\]\(([^)]+)\)', read(page)):
        path, _, anchor = target.partition('#')
        path = os.path.join(os.path.dirname(page), path) if path else page
        if '://' not in target:
            assert os.path.exists(os.path.join(ROOT, path)), target
            assert not anchor or anchor in anchors(path), target


def anchors(page):
    """Return GitHub's anchors of the headings of a page."""
    headings = re.findall(r'(?m)^#+ (.+)$', re.sub(r'(?ms)^```.*?^```', '', read(page)))
    return [re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings]


def test_the_readme_is_short_and_leads_to_every_page():
    text = read('README.md')
    assert len(text.splitlines()) <= 150
    for page in PAGES:
        assert page == 'README.md' or page.startswith('benchmarks') or f'({page})' in text, page


@pytest.mark.parametrize(
    'page, is_listed', [('docs/networks.md', lambda name: True), ('docs/memory.md', lambda name: not is_original(name))]
)
def test_the_tables_have_every_network(page, is_listed):
    """With the counts of the papers' tables, where they have counts."""
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in read(page).splitlines()]
    rows = {row[0]: row[1:] for row in rows if row and row[0] in host.network}
    assert sorted(rows) == sorted(filter(is_listed, host.network))
    for name, row in rows.items():
        if page == 'docs/memory.md':
            assert row[0] == str(host.network[name].per_batch_size)
            continue
        counted = paper.walk(name, size_of(name), shape_of(name)[0])
        assert f'{counted.parameters:,}' in row and f'{counted.macs / 1e9:.3f} G' in row, name
        assert is_original(name) or row[0] == str(size_of(name))


def test_the_readme_has_every_family():
    """With the range of its counts."""
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in read('README.md').splitlines()]
    rows = {
        tuple(row[1].split(', ')): row[2:] for row in rows if len(row) == 5 and row[1].split(', ')[0] in host.network
    }
    assert sorted(sum(rows, ())) == sorted(name for name in host.network if not is_original(name))
    for names, row in rows.items():
        counts = [paper.walk(name, size_of(name), shape_of(name)[0]) for name in names]
        millions, billions = (
            [getattr(of, kind) / 10**n for of in counts] for kind, n in (('parameters', 6), ('macs', 9))
        )
        ranges = [f'{min(of):.1f}–{max(of):.1f}' for of in (millions, billions)]
        assert row == [str(size_of(names[0])), f'{ranges[0]} M', f'{ranges[1]} G']


def prose_of(path):
    """Return [(line, text)] of the prose in a file: paragraphs of Markdown, comments and strings of Python."""
    if not path.endswith('.py'):
        return list(enumerate(read(path).split('\n\n'), 1))
    with open(os.path.join(ROOT, path), 'rb') as file:
        prose = [
            token for token in tokenize.tokenize(file.readline) if token.type in (tokenize.COMMENT, tokenize.STRING)
        ]
    return [(token.start[0], token.string) for token in prose]


@pytest.mark.parametrize('path', PAGES + SOURCES)
def test_the_english_is_plain(path):
    found = [(line, STUMBLING.search(' '.join(text.split()))) for line, text in prose_of(path)]
    assert [f'{line}: {match.group()}' for line, match in found if match] == []


class Parsed(Exception):
    """The options are right."""


COMMANDS = sorted(
    {
        (page, line)
        for page in PAGES
        for block in re.findall(r'(?ms)^ *```\n(.*?)^ *```', read(page))
        for line in re.sub(r'\\\n\s*', '', block).splitlines()
        if re.match(r'\s*python tools/\w+\.py', line)
    }
)


DEMO = 'python tools/train.py --network cru56 --draw --data out/demo/data --output out/demo/cru56-quarter'
QUICK = '--multiplier 0.1 --steps 1 --per-batch-size 4 --identities 4 --images 2 --pairs 20'


def test_the_commands_of_the_readme_run(tmp_path):
    """In order, without make, insightface's trainers and published weights, which other tests run."""
    for name in ('tools', 'symbols', 'config', 'backbones', 'patcher', 'patch_insightface.py'):
        os.symlink(os.path.join(ROOT, name), str(tmp_path / name))
    lay_out(str(tmp_path / 'insightface'), 'C')
    text = '\n'.join(re.findall(r'(?ms)^```\w*\n(.*?)^```', read('README.md')))
    lines = re.findall(r'(?m)^python (?:patch_|tools/(?!import_weights|convert)|-c).*', text)
    assert len(lines) == 5
    for line in [DEMO, *lines]:
        line = f'{line} {QUICK}' if 'train.py' in line else line
        words = [sys.executable, *shlex.split(line.replace('~', str(tmp_path)))[1:]]
        done = subprocess.run(words, cwd=str(tmp_path), capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, (line, done.stderr)
    assert 'ArcFaceONNX' in done.stdout
    assert {'roc.svg', 'quarter.onnx', 'att56'} <= set(os.listdir(str(tmp_path / 'out')))


def test_there_are_commands():
    assert len(COMMANDS) > 15


@pytest.mark.parametrize('page, line', COMMANDS)
def test_the_options_of_a_command_exist(page, line, monkeypatch):
    words = shlex.split(re.split(r'\s{2,}#', line)[0], comments=False)
    if 'launch_local' in line:
        words = words[:1] + words[words.index('--') + 2 :]
    words = [word for word in words if word not in ('2>/dev/null',)]
    module = importlib.import_module(os.path.basename(words[1])[:-3])
    real = argparse.ArgumentParser.parse_args

    def parse(parser, args=None, namespace=None):
        real(parser, words[2:] if args is None else args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse)
    monkeypatch.setattr('sys.argv', words[1:])
    for name in ('DMLC_ROLE', 'DMLC_PS_ROOT_URI', 'DMLC_PS_ROOT_PORT', 'DMLC_NUM_WORKER', 'DMLC_NUM_SERVER'):
        monkeypatch.setenv(name, '1')
    with pytest.raises(SystemExit if '--help' in words else Parsed):
        module.main()


@pytest.mark.parametrize('page', PAGES)
def test_named_networks_and_make_targets_exist(page):
    text = read(page)
    for network in re.findall(r'--network (\w+)', text):
        assert network in host.network or network == 'NETWORK', network
    targets = re.findall(r'(?m)^([\w-]+):', read('Makefile'))
    for target in re.findall(r'(?:^|`)make ([a-z][\w-]*)', text, re.MULTILINE):
        assert target in targets, target


def test_files_that_the_makefile_names_exist():
    for path in re.findall(r'(?:tests|tools|benchmarks)/[\w/]+\.(?:py|txt)', read('Makefile')):
        assert os.path.isfile(os.path.join(ROOT, path)), path


def test_make_help_lists_the_targets():
    done = subprocess.run(['make', '-s', 'help'], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for target in ('demo', 'test', 'bench', 'mutants', 'test-host'):
        assert f'make {target} ' in done.stdout
