"""A sheet to draw diagrams on: boxes, circles, lines and texts, placed in inches from the top left corner.

Everything that is drawn with a `name` has it as its id in an SVG file.
"""

from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path
from matplotlib.text import Text

from netkit.drawing import canvas as figures

MARGIN = 0.2
CHARACTER = 0.0083  # width of a letter, in inches per point of its size: about 0.6 of its height
INK = '#333333'


class Sheet:
    """Collects what is drawn; `figure` returns the picture, as large as its contents."""

    def __init__(self):
        self.artists = []
        self.right = self.bottom = 0.0

    def _add(self, artist, right, bottom, name=None):
        """Add an artist whose right and bottom edges are these."""
        if name:
            artist.set_gid(name)
        self.artists.append(artist)
        self.right, self.bottom = max(self.right, right), max(self.bottom, bottom)

    def text(self, at, text, size=7, align='center', upright='center', weight='normal'):
        """Write `text` at the point `at`; return about where it ends if it is aligned left."""
        x, y = at
        artist = Text(
            x,
            y,
            text,
            fontsize=size,
            ha=align,
            va=upright,
            color=INK,
            fontweight=weight,
            linespacing=1.25,
            zorder=4,
            parse_math=False,
        )
        length = max(map(len, text.split('\n'))) if align == 'left' else 0
        right = x + CHARACTER * size * length
        self._add(artist, right, y)
        return right

    def box(self, middle, extent, text='', colour='white', name=None, size=7):
        """Draw a box around the point `middle`, of `extent`, (width, height)."""
        (x, y), (width, height) = middle, extent
        artist = FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            facecolor=colour,
            edgecolor=INK,
            boxstyle='round,pad=0,rounding_size=0.05',
            linewidth=0.8,
            zorder=3,
        )
        self._add(artist, x + width / 2, y + height / 2, name)
        if text:
            self.text(middle, text, size)

    def legend(self, x, y, colour, text):
        """Explain a colour; return about where the text ends."""
        self.box((x + 0.1, y), (0.2, 0.14), colour=colour)
        return self.text((x + 0.28, y), text, 7, 'left')

    def frame(self, left, top, right, bottom, colour, name=None):
        """Draw an area behind everything else."""
        artist = Rectangle((left, top), right - left, bottom - top, facecolor=colour, edgecolor='none', zorder=0)
        self._add(artist, right, bottom, name)

    def circle(self, middle, text, radius=0.1, name=None):
        """Draw a circle with a sign in it, where maps are added or multiplied."""
        x, y = middle
        artist = Circle(middle, radius, facecolor='white', edgecolor=INK, linewidth=0.8, zorder=3)
        self._add(artist, x + radius, y + radius, name)
        self.text(middle, text, 8)

    def line(self, points, arrow=True, colour=INK, width=0.8):
        """Draw a line through `points`, by default with an arrow at its end."""
        if arrow:
            artist = FancyArrowPatch(
                path=Path(points),
                arrowstyle='-|>',
                mutation_scale=6,
                color=colour,
                linewidth=width,
                zorder=2,
                shrinkA=0,
                shrinkB=0,
                joinstyle='miter',
            )
        else:
            artist = Line2D(*zip(*points), color=colour, linewidth=width, zorder=2)
        self._add(artist, max(x for x, _ in points), max(y for _, y in points))

    def figure(self):
        """Return what was drawn as a matplotlib figure."""
        width, height = self.right + MARGIN, self.bottom + MARGIN
        figure = figures.new_figure(width, height)
        axes = figure.add_axes([0, 0, 1, 1], xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for artist in self.artists:
            axes.add_artist(artist)
        return figure
