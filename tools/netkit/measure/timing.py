"""Time functions interleaved (A B A B …), so that ratios hold on a busy machine; find the largest batch."""

import contextlib
import statistics
import time

from tqdm import tqdm

ROUNDS, SECONDS, MOST = 3, 0.3, 20  # turns of each, how long each lasts about, and its runs at most
MULTIPLE = 8  # of which the largest batches are, as half-precision kernels need it
ENOUGH = 0.02  # of a batch: how much smaller the next guess at the largest is
LARGEST = 2048  # images: no larger batch is looked for, at which cuDNN's indices may end


def in_turns(makers, wait, problems=None, rounds=None, lasting=None, again=False):
    """Yield {label: [seconds of a run, …]} after each round of turns.

    `makers` are {label: function that returns the function to time}. Each is called once, or with `again` for every
    turn, if memory cannot hold all. `wait` waits for the device. A turn lasts about `lasting` seconds, and at least one
    run; the first run, which chooses and allocates, is not timed. A function that fails is recorded in `problems`
    (figures.Problems), if given, and omitted from further rounds.
    """
    rounds, lasting = ROUNDS if rounds is None else rounds, SECONDS if lasting is None else lasting
    seconds, left, made = {}, dict(makers), {}

    def take_turn(label, make, is_timed):
        run = made[label] if label in made else make()
        if again or not is_timed:
            run()
        if is_timed:
            seconds.setdefault(label, []).append(seconds_of_a_run(run, wait, lasting))
        if not again:
            made[label] = run

    with tqdm(total=(rounds + 1) * len(makers), unit='turn', leave=False, disable=None) as bar:
        for number in range(rounds + 1):  # the first warms up
            for label in list(left):
                bar.set_description(label)
                make = left.pop(label)
                with problems.caught(label) if problems else contextlib.nullcontext():
                    take_turn(label, make, number > 0)
                    left[label] = make
                bar.update()
            if number:
                yield dict(seconds)


def medians(seconds):
    """Return {label: median} of {label: [seconds of a run, …]}."""
    return {label: statistics.median(times) for label, times in seconds.items()}


def seconds_of_a_run(run, wait, lasting):
    """Return the seconds of a run of a function, from as many as `lasting` seconds have room for."""
    if not lasting:
        return seconds_of(run, 1, wait)
    runs = int(min(max(lasting / seconds_of(run, 1, wait), 1), MOST))
    return seconds_of(run, runs, wait) / runs


def seconds_of(run, times, wait):
    """Return the seconds that a function takes when run `times` times."""
    wait()
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return time.perf_counter() - start


def largest_that_fits(batch, fits):
    """Return the largest batch up to `batch` for which `fits(batch)`, halving it until one does; 0 if none."""
    while batch and not fits(batch):
        batch //= 2
    return batch


def largest_batch(taken, free, fits):
    """Return the largest batch that fits into `free` MB, a multiple of MULTIPLE or less than that; 0 if none does.

    `taken` is {batch: MB} of two batches, from which a third is guessed, the batch being what memory grows with;
    `fits(batch)` tries it. Where the guess does not fit, the next is smaller by ENOUGH.
    """
    (small, of_small), (large, of_large) = sorted(taken.items())
    per_image = max((of_large - of_small) / (large - small), 1e-9)
    batch = min(int((free - of_large) / per_image) + large, LARGEST)
    while batch > 0:
        batch -= batch % MULTIPLE if batch > MULTIPLE else 0
        if fits(batch):
            return batch
        batch -= max(int(batch * ENOUGH), 1)
    return 0
