"""A Python file of insightface: its lines, our block in it, and the places where blocks belong.

The patch never runs or reformats such a file: it only inserts and removes lines.
"""

import ast
import collections
import hashlib
import re
import sys
import warnings

VERSION = '1.0.0'  # CHANGELOG.md
LONE_RETURN = '\r(?!\n)'
BEGIN, END = '# >>> CRU-Net plug-in >>>', '# <<< CRU-Net plug-in <<<'
WAS = '# was: '  # in front of a line of the file that the block replaces

# lines[start:end] of the file, without markers; the version that wrote it, '' for one of before there were any
Block = collections.namedtuple('Block', 'start end lines intact version')


class Refusal(Exception):
    """Why nothing was done: one sentence for the user."""


def sha(content):
    return hashlib.sha256(content).hexdigest()[:16]


def read(path):
    with open(path, 'rb') as file:
        return file.read()


class Source:
    """A Python file of insightface, as bytes and lines."""

    def __init__(self, path, content):
        self.path, self.content = path, content
        try:
            text = content.decode('utf-8')
        except UnicodeDecodeError as error:
            raise Refusal(
                '%s:%d is not UTF-8; convert the file first' % (path, content.count(b'\n', 0, error.start) + 1)
            )
        self.lines = re.findall(r'[^\n]*\n|[^\n]+', text)  # with their ends; form feeds are not line ends
        self.bare = [line.rstrip('\r\n') for line in self.lines]
        self.eol = '\r\n' if self.lines and self.lines[0].endswith('\r\n') else '\n'
        for number, line in enumerate(self.bare, 1):
            if re.match(r'(<<<<<<<|>>>>>>>)( |$)', line):
                raise Refusal('%s:%d has an unresolved merge conflict; resolve it first' % (path, number))
        self.block = self._find_block()
        self.tree = parse(text)

    def _find_block(self):
        starts = [i for i, line in enumerate(self.bare) if line.startswith(BEGIN)]
        ends = [i for i, line in enumerate(self.bare) if line.startswith(END)]
        if not starts and not ends:
            return None
        if len(starts) != 1 or len(ends) != 1 or ends[0] < starts[0]:
            raise Refusal(
                '%s:%d has markers of the plug-in that do not form one block; remove them by hand'
                % (self.path, (starts + ends)[0] + 1)
            )
        lines = self.bare[starts[0] + 1 : ends[0]]
        version = re.match(r'%s ([\d.]+);' % re.escape(BEGIN), self.bare[starts[0]])
        return Block(
            starts[0],
            ends[0] + 1,
            lines,
            self.bare[ends[0]] == END + ' ' + sha('\n'.join(lines).encode()),
            version.group(1) if version else '',
        )

    def without_block(self):
        """Return the lines as they were without the block."""
        if self.block is None:
            return self.lines
        before, after = self.lines[: self.block.start], self.lines[self.block.end :]
        before = before + [line + self.eol for line in replaced_by(self.block.lines)]
        if not after and before and not self.lines[-1].endswith('\n'):
            # The file had no newline at its end.
            before = before[:-1] + [before[-1][: -len(self.eol)] if before[-1].endswith(self.eol) else before[-1]]
        return before + after

    def without(self, lines):
        """Return the Source without the top-level statements that exactly match one of the set `lines`, and the numbers
        of remaining lines before the first and the last removed statement (None without any)."""
        # A line of a longer statement, or inside a string, is not a statement.
        out = {start for _, start, end in self.statements() if end == start + 1 and self.bare[start] in lines}
        kept = [line for index, line in enumerate(self.lines) if index not in out]
        return Source(self.path, ''.join(kept).encode('utf-8')), ((min(out), max(out) + 1 - len(out)) if out else None)

    def with_block(self, lines, at):
        """Return the file's bytes with a block of `lines` where the old one is, else before line `at` (from 0).

        If `at` is inside a statement, such as a multi-line string, the block follows it. The block
        replaces the lines in its `# was:` comments, which begin at `at`.
        """
        if self.block is not None or replaced_by(lines):
            return self._with_block_at(lines, at if self.block is None else self.block.start)
        block = parse('\n'.join(lines))
        for place in [at] + [start for _, start, _ in self.statements() if start > at] + [len(self.lines)]:
            tree = parse(self._with_block_at(lines, place).decode('utf-8'))
            if tree and block and len(tree.body) == len(self.tree.body) + len(block.body):
                return self._with_block_at(lines, place)
        return self._with_block_at(lines, at)

    def _with_block_at(self, lines, at):
        rest = self.without_block()
        marked = ['%s %s; python patch_insightface.py CHECKOUT --revert takes it out' % (BEGIN, VERSION)] + lines
        marked.append(END + ' ' + sha('\n'.join(lines).encode()))
        added = [line + self.eol for line in marked]
        end = at + len(replaced_by(lines))
        before, after = rest[:at], rest[end:]
        if not after and end > at and not rest[-1].endswith('\n'):
            added[-1] = marked[-1]
        if before and not before[-1].endswith('\n'):
            before = before[:-1] + [before[-1] + self.eol]
            added[-1] = marked[-1]
        return ''.join(before + added + after).encode('utf-8')

    def statements(self):
        """Yield (node, first line, line after it), from 0, of every top-level statement.

        Only the first line of a statement is reliable in all Python versions. The statement ends with the last
        line before the next statement that is neither blank nor comment.
        """
        firsts = [
            min([node.lineno] + [decorator.lineno for decorator in getattr(node, 'decorator_list', ())])
            for node in self.tree.body
        ]
        for index, node in enumerate(self.tree.body):
            later = [first for first in firsts[index:] if first > node.lineno]
            end = later[0] - 1 if later else len(self.bare)
            while end > node.lineno and re.match(r'\s*(#|$)', self.bare[end - 1]):
                end -= 1
            yield node, node.lineno - 1, end

    def outside_block(self, pattern):
        """Return the number, from 1, of the first line outside the block that matches; or None."""
        inside = range(self.block.start, self.block.end) if self.block else ()
        for index, line in enumerate(self.bare):
            if index not in inside and re.match(pattern, line):
                return index + 1
        return None

    def last(self, matches_node):
        """Return the line behind the last top-level statement that matches, outside the block, or None."""
        found, inside = None, range(self.block.start, self.block.end) if self.block else ()
        for node, start, end in self.statements():
            if start not in inside and any(matches_node(part) for part in walk_outside_functions(node)):
                found = end
        return found

    def require_tree(self, by_hand):
        """Raise Refusal if this Python cannot parse the file; `by_hand` describes the manual edit."""
        if self.tree is not None:
            return
        for line, text in enumerate(self.lines, 1):
            if re.search(LONE_RETURN, text):
                raise Refusal(
                    '%s:%d has a carriage return, which Python takes for the end of a line; remove it first'
                    % (self.path, line)
                )
        line = getattr(compile_error(self.content, self.path), 'lineno', None) or 1
        raise Refusal(
            '%s:%d cannot be parsed by Python %d.%d; run the patch with the Python that runs this file, or %s by '
            'hand (docs/insightface.md)' % ((self.path, line) + sys.version_info[:2] + (by_hand,))
        )


def replaced_by(lines):
    """Return the lines of the file that a block of `lines` replaces."""
    return [line[len(WAS) :] for line in lines if line.startswith(WAS)]


def parse(text):
    """Return the syntax tree, or None if this Python cannot parse the text (Python 2's `print`)."""
    if re.search(LONE_RETURN, text):
        return None  # Python takes a lone carriage return for a line end, which would shift all line numbers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # ignore warnings about insightface's escape sequences
            return ast.parse(text.lstrip('\ufeff'))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def walk_outside_functions(node):
    """Yield `node` and what is in it, but not what functions and classes hold: that is not run on import."""
    left = [node]  # and no recursion: a sum of a thousand terms is a thousand nodes deep
    while left:
        node = left.pop()
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, getattr(ast, 'AsyncFunctionDef', ast.FunctionDef))):
            yield node
            left.extend(ast.iter_child_nodes(node))


def compile_error(content, path):
    """Return this Python's error on compiling a file's bytes, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            compile(content, path, 'exec', dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error
    return None


def imports_place(source, host_modules):
    """Return the line, from 0, at which imports of networks belong: after insightface's own."""

    def imports_network(node):
        return isinstance(node, ast.Import) and any(alias.name in host_modules for alias in node.names)

    def appends_symbol_folder(node):
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ('append', 'insert')
            and any('symbol' in text for text in map(constant_text, ast.walk(node)))
        )

    source.require_tree('import the builder modules')
    place = source.last(imports_network)
    if place is None:
        place = source.last(appends_symbol_folder)
    if place is None:
        raise Refusal(
            '%s: cannot find where it imports its networks (fresnet or another module of its symbol folder)'
            % source.path
        )
    return place


def constant_text(node):
    """Return the text of a string constant, '' for any other node; its class changed with Python 3.8."""
    value = getattr(node, 'value', None) if type(node).__name__ == 'Constant' else getattr(node, 's', None)
    return value if isinstance(value, str) else ''


def root_name(node):
    """Return the name that a chain of attributes and subscripts starts from."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def networks_place(source):
    """Return the line, from 0, at which networks belong: after the last of insightface's own.

    Raises Refusal for a config that does not make them by itself, or not as an EasyDict.
    """
    source.require_tree('add the networks')
    line = star_import(source)
    if line:
        raise Refusal(
            '%s:%d takes its networks from another file; add them to that file by hand, and import them here by name '
            '(docs/insightface.md)' % (source.path, line)
        )
    place = source.last(sets_network)
    if place is None:
        raise Refusal(
            '%s: cannot find its networks (lines like network.r100 = edict()); add them by hand (docs/insightface.md)'
            % source.path
        )
    return place


def star_import(source):
    """Return the line, from 1, at which a config star-imports `network` from another file; else None."""
    is_made_here = source.outside_block(r'network\s*=') is not None
    return None if is_made_here else source.outside_block(r'from\s+\S+\s+import\s*\(?\s*\*')


def sets_network(node):
    """Return whether a statement assigns to `network`, or to a part of it."""
    return isinstance(node, ast.Assign) and any(root_name(target) == 'network' for target in node.targets)


def default_place(source):
    """Return the line, from 0, behind partial_fc's generate_config."""
    source.require_tree('add the networks')
    for node, _, end in source.statements():
        if (
            isinstance(node, ast.FunctionDef)
            and node.name == 'generate_config'
            and not (source.block and source.block.start < end <= source.block.end)
        ):
            return end
    raise Refusal('%s: cannot find its generate_config' % source.path)


def get_model_place(source):
    """Return (place, indentation, names of its parameters) of the first statement in arcface_torch's get_model.

    Without get_model (networks are functions there), the place is the file's end, without indentation and names.
    """
    source.require_tree('add the networks')
    for node in source.tree.body:
        if is_get_model(node):
            is_text = isinstance(node.body[0], ast.Expr) and constant_text(node.body[0].value)
            body = node.body[bool(is_text) :]
            first = min([part.lineno for part in body[:1]] + [line.lineno for line in decorators(body[:1])], default=0)
            indentation = re.match(r'\s*', source.bare[first - 1]).group()
            if body and len(indentation) == body[0].col_offset > 0:
                while not is_text and re.match(r'\s*(#|$)', source.bare[first - 2]):
                    first -= 1  # in front of comments
                return first - 1, indentation, (node.args.args[0].arg, node.args.kwarg.arg)
    if not any('get_model' in line for line in source.bare):
        return len(source.bare), '', None
    raise Refusal(
        '%s: cannot find its get_model(name, **kwargs); add the networks by hand (docs/arcface-torch.md), and name '
        'another trainer with --trainer' % source.path
    )


def is_get_model(node):
    """Return whether a statement is `def get_model(name, **kwargs)`."""
    if not isinstance(node, ast.FunctionDef) or node.name != 'get_model':
        return False
    given = node.args
    return len(given.args) == 1 and bool(given.kwarg) and not given.vararg and not given.kwonlyargs


def decorators(nodes):
    """Return the decorators of statements."""
    return [decorator for node in nodes for decorator in getattr(node, 'decorator_list', ())]


def edict_name(source):
    """Return the config's name for EasyDict, from its assignment to `network`; 'edict' if it has none."""
    if source.block:
        made = re.search(r'(?m)^network\.\w+ = ([\w.]+)\(\)$', '\n'.join(source.block.lines))
        return made.group(1) if made else 'edict'
    name = 'edict'
    for node in [part for statement, _, _ in source.statements() for part in walk_outside_functions(statement)]:
        targets = getattr(node, 'targets', [getattr(node, 'target', None)])
        is_assignment = isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
        if not is_assignment or not any(isinstance(target, ast.Name) and target.id == 'network' for target in targets):
            continue
        name = dotted_name(node.value.func) if isinstance(node.value, ast.Call) else None
        if name in (None, 'dict', 'OrderedDict', 'collections.OrderedDict'):
            raise Refusal(
                '%s:%d: its networks are not an EasyDict (network = edict()), whose entries have names; add the '
                'networks by hand (docs/insightface.md)' % (source.path, node.lineno)
            )
    return name


def dotted_name(node):
    """Return the text of a name or of a chain of attributes, None for anything else."""
    if isinstance(node, ast.Attribute):
        return dotted_name(node.value) and '%s.%s' % (dotted_name(node.value), node.attr)
    return node.id if isinstance(node, ast.Name) else None
