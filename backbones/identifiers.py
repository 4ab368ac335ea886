"""Names of a symbol's nodes as Python identifiers: what PyTorch calls the parameters of a symbol from elsewhere.

`symbol_torch.py` reads a symbol by it, `tools/convert.py` writes a state dict by it. Needs nothing but Python.
"""

import keyword
import re


def is_identifier(name):
    """Return whether a name can stand in code as it is: ASCII, no keyword, not `self`."""
    return bool(re.fullmatch(r'[A-Za-z_][A-Za-z0-9_]*', name)) and not keyword.iskeyword(name) and name != 'self'


def identifiers(names):
    """Return {name: identifier}, each of its own, for names of which no two are the same.

    Identifiers stay as they are. In other names every other character becomes `_`, and a number follows where that is
    taken: `conv3_x_1_c1x1-w(s/1)_conv2d_weight` becomes `conv3_x_1_c1x1_w_s_1__conv2d_weight`.
    """
    found = {name: name for name in names if is_identifier(name)}
    taken, last = set(found), {}
    for name in names:
        if name in found:
            continue
        base = re.sub(r'[^A-Za-z0-9_]', '_', name)
        if not is_identifier(base):
            base = '_' + base
        candidate = base
        while candidate in taken:
            last[base] = last.get(base, 1) + 1
            candidate = f'{base}_{last[base]}'
        found[name] = candidate
        taken.add(candidate)
    return found
