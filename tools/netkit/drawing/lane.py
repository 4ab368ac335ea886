"""A lane: boxes and circles below one another on a sheet, joined by arrows; their sizes and colours."""

# Fill colours: units that keep the size, units that halve the map, units of a mask, layers, layers without weights.
UNIT, START, MASK_UNIT, PLAIN, GLUE = '#dbe9f6', '#9ecae1', '#fde0c5', '#f4f4f4', '#fafafa'
GROUPS = ('#c7e9c0', '#dadaeb', '#fdd0a2', '#c6dbef', '#fcc5c0', '#d9f0a3')
MODULE = '#f7f7f2'
WIDTH, HEIGHT, STEP = 1.2, 0.26, 0.4  # of a box, and from one box to the next, in inches


class Lane:
    """Boxes and circles below one another, joined by arrows."""

    def __init__(self, sheet, x, y, *start):
        self.sheet, self.x, self.y = sheet, x, y  # y: of the next one
        self.end = list(start)  # the line to the next one, without its last point

    def _next(self, half_height, step):
        """Draw the arrow to the next item, and return its y."""
        y = self.y
        if self.end:
            self.sheet.line(self.end + [(self.x, y - half_height)])
        self.end, self.y = [(self.x, y + half_height)], y + step
        return y

    def box(self, text, colour, name=None, width=WIDTH, height=HEIGHT):
        """Draw the next box; return its y."""
        y = self._next(height / 2, STEP - HEIGHT + height)
        self.sheet.box((self.x, y), (width, height), text, colour, name)
        return y

    def sign(self, text, name=None):
        """Draw the next circle; return its y."""
        y = self._next(0.1, 0.36)
        self.sheet.circle((self.x, y), text, name=name)
        return y
