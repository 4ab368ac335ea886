"""Print what extras of pyproject.toml require, one requirement per line, without what the distribution itself requires.

python tools/extras.py mxnet tools > wanted.txt && pip install -c constraints.txt -r wanted.txt
"""

import os
import sys

try:
    from tomllib import loads
except ImportError:  # before Python 3.11: what pip reads such files with
    try:
        from pip._vendor.tomli import loads
    except ImportError:  # before pip 21.2
        from pip._vendor.toml import loads

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    with open(os.path.join(ROOT, 'pyproject.toml'), encoding='utf-8') as file:
        extras = loads(file.read())['project']['optional-dependencies']
    unknown = [name for name in sys.argv[1:] if name not in extras]
    if unknown or not sys.argv[1:]:
        sys.stderr.write(f'extras.py: name extras, of {", ".join(extras)}\n')
        return 2
    print('\n'.join(requirement for name in sys.argv[1:] for requirement in extras[name]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
