"""Print what extras of pyproject.toml require, one requirement per line, without what the distribution itself requires.

python tools/extras.py mxnet tools | pip install -c constraints.txt -r /dev/stdin
"""

import os
import sys

try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    with open(os.path.join(ROOT, 'pyproject.toml'), 'rb') as file:
        extras = tomllib.load(file)['project']['optional-dependencies']
    unknown = [name for name in sys.argv[1:] if name not in extras]
    if unknown or not sys.argv[1:]:
        sys.stderr.write(f'extras.py: name extras, of {", ".join(extras)}\n')
        return 2
    print('\n'.join(requirement for name in sys.argv[1:] for requirement in extras[name]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
