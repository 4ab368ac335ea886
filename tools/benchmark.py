"""Time network choices side by side, plan their memory, or time how long they take to build.

A CHOICE is NETWORK or NETWORK:SETTING=VALUE,…; NETWORK:plain is the network without the rewritings that make it
fast on a CPU. All choices run in one process, in turns (A B A B …), so that the ratios hold on a busy machine.
"""
import ast
import collections
import math
import multiprocessing
import os
import re
import statistics
import time

from project import Parser, UserError, check_writable, run, whole_number

import mxnet as mx
import numpy as np
from tqdm import tqdm

import config as host
import pictures
import tables
from face_blocks import Settings
from graph import Graph, refusals
from network import (build, check_room, choose, count_copies, count_macs, count_parameters, learnt_weight,
                     planned_memory, shapes, suit)

# The form that the papers' figures and MXNet's operators suggest.
PLAIN = dict(net_prelu='op', net_resize='op', net_groups='op', memonger=False)
BATCHES = (32, 80, 128)  # what --memory plans for
GPUS = (1, 8, 64)  # what --scaling tells about
MODES = ('training', 'inference')
FLOOR = '%s, convolutions and FCs alone'
PEERS = ((r'cru(\d+)_imagenet', r'crunet\1'), (r'att(\d+)_imagenet', r'resattnet\1'))  # names in gluoncv2
TIME_COLUMNS = ('choice', 'ms/image', 'spread', 'images/s', 'GFLOP/s', 'over the floor', 'plan MB/image', 'peak RSS MB',
                'ratio')


# ------------------------------------------------------------------------------------------------ choices

class Choice(collections.namedtuple('Choice', 'label network overrides')):
    """One thing to measure: a network choice and the settings that differ from what suits the device."""

    def config(self, device='gpu'):
        """Return the config of the choice, in the form that suits `device`, with its overrides.

        For a 'gpu' that is the form that insightface's trainers build.
        """
        config = choose(self.network)
        suit(config, device)
        config.update(self.overrides)
        return config

    def build(self, device):
        """Return (symbol, image_shape) of the choice in the form that suits `device`."""
        config = self.config(device)
        return build(config), config.image_shape


def parse_choice(text):
    """Return the Choice that `text` describes; raises UserError for a network or setting that does not exist."""
    network, _, settings = text.partition(':')
    choose(network)
    overrides = {}
    for setting in filter(None, re.split(r',(?![^(]*\))', settings)):  # not at the commas of (64,64,3)
        if setting == 'plain':
            overrides.update(PLAIN)
            continue
        key, _, value = setting.partition('=')
        if key not in Settings._fields + ('net_mask_up',):
            raise UserError('%r is not a setting; write NETWORK:plain or NETWORK:SETTING=VALUE with a setting of %s'
                            % (key, ', '.join(Settings._fields)))
        try:
            overrides[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            overrides[key] = value  # a word: net_prelu=op
    return Choice(text, network, overrides)


# -------------------------------------------------------------------------------------------------- steps

class Step:
    """One training step (forward and backward) or one inference of a symbol on noise."""

    def __init__(self, symbol, shape, context, training, data_gradient=False):
        request = {name: 'write' if training and (name != 'data' or data_gradient) else 'null'
                   for name in symbol.list_arguments()}
        with refusals('MXNet does not compute this on a %s' % context.device_type):
            self.executor = symbol.simple_bind(context, grad_req=request, data=shape)
        self.training = training
        random = np.random.RandomState(0)
        for name, array in self.executor.arg_dict.items():
            array[:] = initial_value(name, array.shape, random)
        for name, array in self.executor.aux_dict.items():
            array[:] = 1 if name.endswith('var') else 0
        self.head_gradient = mx.nd.ones(self.executor.outputs[0].shape, context) if training else None

    def __call__(self):
        self.executor.forward(is_train=self.training)
        if self.training:
            self.executor.backward(self.head_gradient)
        else:
            self.executor.outputs[0].wait_to_read()


class Floor:
    """The convolutions and fully connected layers of a symbol alone: the same shapes, nothing between."""

    def __init__(self, symbol, shape, context, training):
        shape_of = shapes(symbol, shape[2:], shape[0])
        layers = collections.Counter()
        for node in Graph.of(symbol).nodes():
            if learnt_weight(node):
                source = node.inputs[0][0]
                source = source.name + ('' if source.op == 'null' else '_output')
                # Without the mark of memonger: run alone, the layer would be computed twice.
                attributes = {key: value for key, value in node.attrs.items() if not key.startswith('__')}
                layers[node.op, shape_of[source], tuple(sorted(attributes.items()))] += 1
        self.steps = [(count, self._alone(layer, context, training)) for layer, count in layers.items()]

    @staticmethod
    def _alone(layer, context, training):
        operator, shape, attributes = layer
        symbol = getattr(mx.sym, operator)(mx.sym.Variable('data'), name='layer', **dict(attributes, no_bias=True))
        reads_the_image = shape[1] == 3
        return Step(symbol, shape, context, training, data_gradient=not reads_the_image)

    def __call__(self):
        for count, step in self.steps:
            for _ in range(count):
                step()


class Peer:
    """A step of the same network in gluoncv2, hybridised."""

    def __init__(self, network, shape, context, training):
        try:
            from gluoncv2.model_provider import get_model
        except ImportError:
            raise UserError('gluoncv2 is not installed; install requirements-dev.txt to compare with it') from None
        self.net = get_model(peer_name(network))
        self.net.initialize(ctx=context)
        self.net.hybridize(static_alloc=True, static_shape=True)
        self.data = mx.nd.array(np.random.RandomState(0).normal(size=shape), context)
        self.training = training

    def __call__(self):
        if not self.training:
            self.net(self.data).wait_to_read()
            return
        with mx.autograd.record():
            output = self.net(self.data)
        output.backward()


def peer_name(network):
    """Return what gluoncv2 calls a network choice; raises UserError if it does not have it."""
    for ours, theirs in PEERS:
        if re.fullmatch(ours, network):
            return re.sub(ours, theirs, network)
    raise UserError('gluoncv2 has no peer of %s; it has cru56_imagenet, cru116_imagenet and att…_imagenet' % network)


def initial_value(name, shape, random):
    """Return values of a sensible size for a parameter, or an image for `data`."""
    if name == 'data':
        return random.uniform(0, 255, shape)
    if name.endswith('gamma'):
        return 0.25 if 'relu' in name else 1
    if name.endswith(('beta', 'bias')):
        return 0
    return random.normal(0, math.sqrt(2 / np.prod(shape[1:])), shape)


# ------------------------------------------------------------------------------------------------- timing

def measure(steps, repetitions):
    """Return {label: [seconds, …]} of `repetitions` runs of every step, in turns, after one to warm up."""
    seconds = {label: [] for label in steps}
    with tqdm(total=(repetitions + 1) * len(steps), unit='step', leave=False, disable=None) as bar:
        for repetition in range(repetitions + 1):
            for label, step in steps.items():
                bar.set_description(label)
                mx.nd.waitall()
                start = time.perf_counter()
                step()
                mx.nd.waitall()
                if repetition:
                    seconds[label].append(time.perf_counter() - start)
                bar.update()
    return seconds


def one_step(choice, batch, device, training):
    """Return the peak resident MB of this process after one step, None where the system does not tell it.

    For a process of its own.
    """
    symbol, (height, width, _) = choice.build(device)
    Step(symbol, (batch, 3, height, width), mx.Context(device), training)()
    mx.nd.waitall()
    if not os.path.exists('/proc/self/status'):
        try:
            import resource
        except ImportError:  # on Windows
            return None
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20  # macOS counts bytes
    with open('/proc/self/status') as status:  # getrusage would tell the parent's peak where that is higher
        return int(re.search(r'VmHWM:\s+(\d+) kB', status.read()).group(1)) / 1024


def time_choices(choices, args, mode):
    """Measure one mode of all choices; return the rows of the table, dicts with numbers."""
    training = mode == 'training'
    steps, rows, floors = {}, [], {}
    for choice in choices:
        symbol, image_shape = choice.build(args.device)
        shape = (args.per_batch_size, 3) + tuple(image_shape[:2])
        context = mx.Context(args.device)
        macs = count_macs(symbol, image_shape)
        known = (choice.network, macs) in floors
        floor = floors.setdefault((choice.network, macs), FLOOR % (choice.label if FLOOR % choice.network in steps
                                                                   else choice.network))
        row = dict(label=choice.label, choice=choice, macs=macs, floor=floor,
                   plan=planned_memory(symbol, args.per_batch_size, image_shape, training) / args.per_batch_size)
        steps[choice.label] = Step(symbol, shape, context, training)
        rows.append(row)
        if known:
            continue
        steps[floor] = Floor(symbol, shape, context, training)
        rows.append(dict(row, label=floor, choice=None))
        if args.peer:
            label = '%s %s' % (args.peer, peer_name(choice.network))
            steps[label] = Peer(choice.network, shape, context, training)
            rows.append(dict(row, label=label, choice=None))
    rows.sort(key=lambda row: row['choice'] is None)
    seconds = measure(steps, args.repetitions)
    del steps
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        for row in rows:
            row['seconds'] = [second / args.per_batch_size for second in seconds[row['label']]]
            row['median'] = statistics.median(row['seconds'])
            if row['choice']:
                row['rss'] = pool.apply(one_step, (row['choice'], args.per_batch_size, args.device, training))
    for row in rows:
        row['ratio'] = rows[0]['median'] / row['median']
        row['over'] = row['median'] / next(other['median'] for other in rows if other['label'] == row['floor'])
        row['gflops'] = 2 * row['macs'] * (3 if training else 1) / row['median'] / 1e9
    return rows


def time_row(row):
    """Return the texts of a row of the table of times."""
    spread = '%.0f…%.0f' % (1e3 * min(row['seconds']), 1e3 * max(row['seconds']))
    return (row['label'], '%.1f' % (1e3 * row['median']), spread, '%.2f' % (1 / row['median']), '%.0f' % row['gflops'],
            '%.2f×' % row['over'], '%.1f' % row['plan'] if row['choice'] else '–',
            '%.0f' % row['rss'] if row['choice'] and row['rss'] else '–', '%.2f×' % row['ratio'])


def plot(results, path):
    """Draw the times of `results`, {mode: rows}, as bars, into the file `path`."""
    count = max(map(len, results.values()))
    figure = pictures.new_figure(6.5 * len(results), 1.2 + 0.45 * count)
    panels = figure.subplots(1, len(results), squeeze=False)
    for (mode, rows), panel in zip(results.items(), panels[0]):
        medians = [1e3 * row['median'] for row in rows]
        errors = [[1e3 * (row['median'] - min(row['seconds'])) for row in rows],
                  [1e3 * (max(row['seconds']) - row['median']) for row in rows]]
        colours = ['tab:blue' if row['choice'] else 'tab:gray' for row in rows]
        panel.barh([row['label'] for row in rows], medians, xerr=errors, color=colours, height=0.6)
        for place, row in enumerate(rows):
            text = '  %.0f ms, %.2f×' % (1e3 * row['median'], row['ratio'])
            panel.text(1e3 * max(row['seconds']), place, text, va='center')
        panel.invert_yaxis()
        panel.set_xlim(0, 1.6 * max(medians))
        panel.set_title(mode)
        panel.set_xlabel('ms per image')
        panel.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    pictures.save(figure, path)


# -------------------------------------------------------------------------------------------- other tables

def memory_rows(choices):
    """Return, for every choice, the MB of its weights and what a training step plans without and with `memonger`."""
    rows = []
    for choice in tqdm(choices, unit='choice', leave=False, disable=None):
        config = choice.config()
        row = [choice.label, str(config.per_batch_size), 'on' if config.get('memonger') else 'off',
               '{:,.0f}'.format(4 * count_parameters(build(config), config.image_shape) / 2 ** 20)]
        for memonger in (False, True):
            config.memonger = memonger
            symbol = build(config)
            row += ['{:,.0f}'.format(planned_memory(symbol, batch, config.image_shape)) for batch in BATCHES]
        rows.append(tuple(row))
    return rows


def scaling_rows(choices):
    """Return, for every choice, what a step takes on several GPUs: plan, images, gradients to exchange."""
    rows = []
    for choice in tqdm(choices, unit='choice', leave=False, disable=None):
        config = choice.config()
        symbol, batch = build(config), config.per_batch_size
        parameters, copies = (4 * count(symbol, config.image_shape) / 2 ** 20 for count in (count_parameters, count_copies))
        rows.append((choice.label, str(batch), '{:,.0f}'.format(planned_memory(symbol, batch, config.image_shape)))
                    + tuple('{:,}'.format(gpus * batch) for gpus in GPUS)
                    + ('{:,.0f}'.format(parameters), '{:,.0f}'.format(parameters + copies),
                       '%.0f %%' % (100 * copies / (parameters + copies))))
    return rows


def building_rows(choices):
    """Return, for every choice, how long its symbol and the JSON of it take, and how long the JSON is."""
    rows = []
    for choice in choices:
        config = choice.config()
        start = time.perf_counter()
        symbol = build(config)
        built = time.perf_counter()
        text = symbol.tojson()
        done = time.perf_counter()
        rows.append((choice.label, '%.0f' % (1e3 * (built - start)), '%.0f' % (1e3 * (done - built)),
                     '{:,.0f}'.format(len(text) / 1024)))
    return rows


# -------------------------------------------------------------------------------------------------- program

def parse_args(argv=None):
    parser = Parser(prog='benchmark.py', description=__doc__)
    parser.add_argument('choices', nargs='*', metavar='CHOICE',
                        help='what to measure; the first is what the others are compared with (to time: cru116:plain '
                             'cru116; otherwise: all networks)')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--memory', action='store_true',
                      help='instead: what MXNet plans for a training step at 32, 80 and 128 images')
    what.add_argument('--scaling', action='store_true',
                      help='instead: images and gradients of a training step on 1, 8 and 64 GPUs')
    what.add_argument('--building', action='store_true', help='instead: how long symbol and JSON take')
    parser.add_argument('--only', choices=MODES, help='time only this')
    parser.add_argument('--per-batch-size', type=whole_number(1), default=4, help='images in a step')
    parser.add_argument('--repetitions', type=whole_number(1), default=5, help='steps of each that are timed')
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu', help='where to compute')
    parser.add_argument('--peer', choices=('gluoncv2',), help="add this package's network of the same name, hybridised")
    parser.add_argument('--plot', type=pictures.picture_path, metavar='FILE',
                        help='draw the times into this file: .png, .svg or .pdf')
    parser.add_argument('--markdown', action='store_true', help='print Markdown tables')
    args = parser.parse_args(argv)
    if args.plot and (args.memory or args.building or args.scaling):
        parser.error('--plot draws times; leave it out with --memory, --scaling and --building')
    return args


def main(argv=None):
    args = parse_args(argv)
    show = tables.show_as_markdown if args.markdown else tables.show
    if args.memory or args.building or args.scaling:
        choices = [parse_choice(text) for text in args.choices or host.network]
        if args.building:
            show('building, milliseconds', ('choice', 'symbol', 'JSON', 'JSON KB'), building_rows(choices))
        elif args.scaling:
            images = tuple('images, %d GPU%s' % (gpus, 's' * (gpus > 1)) for gpus in GPUS)
            show('a training step with the default batch: planned MB on each GPU, images, MB of gradients',
                 ('choice', 'batch', 'plan MB') + images + ('gradients MB', 'unshared MB', 'saved'), scaling_rows(choices))
        else:
            columns = ['%s %d' % (word, batch) for word in ('off', 'on') for batch in BATCHES]
            show('planned MB for the feature maps of a training step and their gradients, memonger off and on; weights come '
                 'on top three times, with gradient and momentum',
                 ('choice', 'default batch', 'default', 'weights') + tuple(columns), memory_rows(choices))
        return

    if args.device == 'gpu' and not mx.context.num_gpus():
        raise UserError('MXNet sees no GPU here; leave out --device gpu')
    texts = args.choices or ['cru116:plain', 'cru116']
    if len(set(texts)) < len(texts):
        raise UserError('each choice has to be named once: %s' % ' '.join(texts))
    choices = [parse_choice(text) for text in texts]
    for choice in choices:
        symbol, image_shape = choice.build(args.device)  # wrong values show now, not after minutes
        if args.device == 'cpu':
            check_room(args.per_batch_size * planned_memory(symbol, 1, image_shape, args.only != 'inference') * 2 ** 20,
                       'take a smaller --per-batch-size: %s with %d images wants' % (choice.label, args.per_batch_size))
        if args.peer:
            peer_name(choice.network)
    if args.plot:
        check_writable(os.path.dirname(os.path.abspath(args.plot)))
    results = {}
    for mode in (args.only,) if args.only else MODES:
        results[mode] = time_choices(choices, args, mode)
        show('%s, batch %d' % (mode, args.per_batch_size), TIME_COLUMNS, [time_row(row) for row in results[mode]])
    if args.plot:
        plot(results, args.plot)
        print('drawn into %s' % args.plot)


if __name__ == '__main__':
    run(main)
