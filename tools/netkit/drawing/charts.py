"""Charts: what sharing saves in a network, and the curves of training runs."""

import os
import re
import textwrap

import numpy as np

from netkit.drawing.canvas import new_figure
from netkit.errors import UserError
from netkit.graph.naming import HEAD, STEM

STYLES = ('-', '--', ':', '-.')  # of verification sets; runs have colours
SMOOTHED = 200  # points; longer curves are smoothed
LONGEST = 90  # characters of a line of a label


def draw_sharing(title, units):
    """Return a bar chart of the parameters of each unit, with and without sharing.

    `units` are those of `graph.units.analyse`. Raises UserError for a network that shares no weights.
    """
    saved = sum(unit.unshared - unit.parameters for unit in units)
    if not saved:
        raise UserError(f'{title} shares no weights; sharing is what the CRU-Nets are about, cru56 and cru116')
    parameters = sum(unit.parameters for unit in units)
    shown = [unit for unit in units if unit.stage not in (STEM, HEAD)]
    figure = new_figure(8, 1.2 + 0.22 * len(shown))
    panel = figure.subplots()
    names = [unit.name if not unit.sharing else f'{unit.name}  ({unit.sharing})' for unit in shown]
    own, unshared = ([getattr(unit, key) / 1e6 for unit in shown] for key in ('parameters', 'unshared'))
    panel.barh(names, unshared, color='#fdae6b', label=f'unshared: {(parameters + saved) / 1e6:.2f} M in all')
    panel.barh(names, own, color='#3182bd', label=f'{title}: {parameters / 1e6:.2f} M in all')
    for place, (mine, alone) in enumerate(zip(own, unshared)):
        text = f'{mine:.2f}' if mine == alone else f'{mine:.2f} instead of {alone:.2f}'
        panel.text(alone, place, '  ' + text, va='center', fontsize=7)
    panel.set_xlim(0, 1.3 * max(unshared))
    panel.invert_yaxis()
    panel.tick_params(labelsize=7)
    panel.set_xlabel(
        'million parameters; a shared weight counts for the first unit that has it; stem and head not shown', fontsize=8
    )
    share = saved / (parameters + saved)
    panel.set_title(f'{title}: sharing saves {saved / 1e6:.2f} M parameters, {100 * share:.0f} %')
    panel.legend(loc='upper right', fontsize=8)
    panel.spines[['top', 'right']].set_visible(False)
    figure.set_layout_engine('tight')
    return figure


def draw_training(runs):
    """Return a figure of loss, accuracy, verification and speed over the steps; `runs` is {label: Curves}."""
    figure = new_figure(10, 6.5)
    panels = dict(zip(('loss', 'accuracy', 'verification', 'images/s'), figure.subplots(2, 2, sharex=True).ravel()))
    for number, (label, curves) in enumerate(runs.items()):
        colour = f'C{number % 10}'
        for name, curve in (('loss', curves.loss), ('accuracy', curves.accuracy), ('images/s', curves.speed)):
            draw_curve(panels[name], label, curve, colour)
        for place, (name, curve) in enumerate(curves.verification.items()):
            draw_verification(panels['verification'], f'{label}, {name}', curve, colour, STYLES[place % len(STYLES)])
    for name, panel in panels.items():
        panel.set_title(name, fontsize=10)
        panel.set_xlabel('step', fontsize=8)
        panel.tick_params(labelsize=8, labelbottom=True)
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize=7)
        else:
            panel.text(0.5, 0.5, 'not in the logs', transform=panel.transAxes, ha='center')
    panels['images/s'].set_ylim(bottom=0)
    figure.set_layout_engine('tight')
    return figure


def draw_curve(panel, label, curve, colour):
    """Draw a curve, {step: value}; a long one smoothed, with the original pale behind it."""
    if not curve:
        return
    steps = np.array(sorted(curve))
    values = np.array([curve[step] for step in steps])
    if len(steps) > SMOOTHED:
        panel.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        width = len(steps) // (SMOOTHED // 4)
        steps, values = (np.convolve(array, np.full(width, 1 / width), 'valid') for array in (steps, values))
    panel.plot(steps, values, color=colour, label=label, linewidth=1.4, marker='.' if len(steps) < 30 else None)


def draw_verification(panel, label, curve, colour, style):
    """Draw a curve with error bars, {step: (mean, standard deviation)}."""
    steps = sorted(curve)
    means, deviations = np.array([curve[step] for step in steps]).T
    panel.errorbar(
        steps,
        means,
        deviations,
        color=colour,
        linestyle=style,
        marker='.',
        capsize=2,
        linewidth=1.4,
        elinewidth=0.6,
        label=label,
    )


def labels(paths):
    """Return a label for each log: its name, with as many folders as distinguish it from the others."""
    parts = [os.path.abspath(path).split(os.sep) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        found = ['/'.join(part[-depth:]) for part in parts]
        if len(set(found)) == len(set(map(tuple, parts))):
            break
    return [re.sub('^_', './_', label) for label in found]  # matplotlib hides labels with _


def draw_roc(curves):
    """Return a figure of ROC curves on a logarithmic axis of the false accept rate; `curves` is {label: Roc}."""
    figure = new_figure(7, 5 + 0.2 * len(curves))
    figure.set_layout_engine('constrained')
    panel = figure.subplots()
    for label, curve in curves.items():
        shown = curve.far > 0
        label = textwrap.fill(re.sub('^_', './_', label), LONGEST, break_on_hyphens=False)
        panel.plot(curve.far[shown], curve.tar[shown], drawstyle='steps-post', linewidth=1.4, label=label)
    panel.set_xscale('log')
    panel.xaxis.set_major_formatter('{x:g}')  # the scale's own writes powers in TeX, which is off here
    panel.xaxis.set_minor_formatter('')
    panel.set_xlim(right=1)
    panel.set_ylim(0, 1.01)
    panel.set_xlabel('false accept rate')
    panel.set_ylabel('true accept rate')
    panel.grid(alpha=0.3, which='both')
    figure.legend(loc='outside lower left', fontsize=8)
    return figure
