"""What the parts `memory` of the engines share: which steps to try, and what to say of the memory that they take."""

from typing import Callable, NamedTuple

from netkit.gpu.harness import LARGEST, Figure, Problems, largest_batch, largest_that_fits, note_of


class Memory(NamedTuple):
    """How an engine measures the memory of a network.

    `trier(way)` returns a function of a batch, which returns the MB (2^20 bytes) that a step takes, None where it does
    not fit; `free()` returns the MB that there are for it. `taken` and `largest` are the titles of the tables.
    """

    trier: Callable
    free: Callable
    taken: str
    largest: str


def figures_of(memory, name, ways, wanted):
    """Yield the Figures of a network: all ways with `wanted` images, or what fits; then the largest batch of each."""
    peaks, problems, column = {}, Problems(), f'{name}, batch {wanted}'

    def fitter(way):
        """Return a function that tells whether a batch fits, and keeps its peak."""
        measure = memory.trier(way)

        def fits(batch):
            peak = measure(batch)
            if peak is not None:
                peaks[way, batch] = peak
            return peak is not None

        return fits

    for way in ways:
        with problems.caught(way):
            fits = fitter(way)
            batch = largest_that_fits(wanted, fits)
            if batch and fits(batch):  # again, since the first time cuDNN has chosen and loaded
                yield Figure(memory.taken, way, column, round(peaks[way, batch]), note_of(batch, wanted))
            else:
                yield Figure(memory.taken, way, column, 'not one image fits')
    for way in ways:
        with problems.caught(way):
            known = max((batch for of, batch in peaks if of == way), default=0)
            fits = fitter(way)
            if known < 2 or not fits(known // 2):
                continue
            two = {batch: peaks[way, batch] for batch in (known // 2, known)}
            batch = largest_batch(two, memory.free(), fits)
            if batch:
                more = '; more was not tried' if batch >= LARGEST else ''
                note = f'{peaks[way, batch]:,.0f} MB{more}'
                yield Figure(memory.largest, way, name, batch, note)
    problems.check()
