"""Times as bars."""

import math

from netkit.drawing import canvas as figures

COLUMNS = 2  # of panels


def save(results, path):
    """Draw the times of `results`, {title: Rows}, as bars, into the file `path`."""
    count, columns = max(map(len, results.values())), min(len(results), COLUMNS)
    lines = math.ceil(len(results) / columns)
    figure = figures.new_figure(6.5 * columns, (1.2 + 0.45 * count) * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for panel in panels[len(results) :]:
        panel.remove()
    for (title, rows), panel in zip(results.items(), panels):
        medians = [1e3 * row.median for row in rows]
        errors = [
            [1e3 * (row.median - min(row.seconds)) for row in rows],
            [1e3 * (max(row.seconds) - row.median) for row in rows],
        ]
        colours = ['tab:blue' if row.is_network else 'tab:gray' for row in rows]
        panel.barh([row.label for row in rows], medians, xerr=errors, color=colours, height=0.6)
        for place, row in enumerate(rows):
            panel.text(1e3 * max(row.seconds), place, f'  {1e3 * row.median:.0f} ms, {row.ratio:.2f}×', va='center')
        panel.invert_yaxis()
        panel.set_xlim(0, 1.6 * max(medians))
        panel.set_title(title)
        panel.set_xlabel('ms per image')
        panel.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    figures.save(figure, path)
