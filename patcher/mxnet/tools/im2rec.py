"""Pack folders of images for a training: `python -m mxnet.tools.im2rec`, as insightface's pages call it.

python -m mxnet.tools.im2rec --list --recursive train image_folder                # writes train.lst
python -m mxnet.tools.im2rec --num-thread 16 --quality 100 train image_folder     # writes train.rec and train.idx
"""

import argparse
import itertools
import multiprocessing.pool
import os
import random
import sys

import cv2

from .. import recordio

AT_ONCE = 256  # images in memory for each thread


def listed(root, is_recursive, endings):
    """Yield (path within `root`, label) of images: a label for each folder of images, or 0 for those of one folder."""
    labels = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        if not is_recursive:
            folders.clear()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in endings:
                yield os.path.relpath(os.path.join(folder, name), root), labels.setdefault(folder, len(labels))


def write_list(args):
    """Write PREFIX.lst, lines of number, label and path; return how many."""
    found = [(number, *of) for number, of in enumerate(listed(args.root, args.recursive, args.exts))]
    if args.shuffle:
        random.Random(100).shuffle(found)
    with open(args.prefix + '.lst', 'w') as file:
        file.writelines('%d\t%f\t%s\n' % (number, label, path) for number, path, label in found)
    return len(found)


def items_of(lines, path):
    """Yield (number, label, path) of the lines of a list; raises ValueError."""
    for place, line in enumerate(lines, 1):
        try:
            number, label, *_, name = line.rstrip('\n').split('\t')
            yield int(number), float(label), name
        except ValueError:
            raise ValueError('%s:%d is not number, label and path, with tabs between' % (path, place))


def packed(args, item):
    """Return (number, content of a record) of an image, or (number, None) for a file that is not one."""
    number, label, name = item
    path = os.path.join(args.root, name)
    if args.pass_through:
        with open(path, 'rb') as file:
            content = file.read()
    else:
        image = cv2.imread(path)
        if image is None:
            sys.stderr.write('%s is not an image; it is left out\n' % path)
            return number, None
        content = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, args.quality])[1].tobytes()
    return number, recordio.pack(recordio.IRHeader(0, label, number, 0), content)


def write_records(args):
    """Write PREFIX.rec and PREFIX.idx from PREFIX.lst, both or neither; return how many records."""
    paths = [args.prefix + ending for ending in ('.idx', '.rec')]
    with open(args.prefix + '.lst') as lines:
        record = recordio.MXIndexedRecordIO(*(path + '.new' for path in paths), 'w')
        try:
            write_items(args, items_of(lines, args.prefix + '.lst'), record)
        except BaseException:
            record.close()
            for path in paths:
                os.remove(path + '.new')
            raise
    record.close()
    for path in paths:
        os.replace(path + '.new', path)
    return len(record.keys)


def write_items(args, items, record):
    """Write the images of some items, which several threads encode, in their order."""
    with multiprocessing.pool.ThreadPool(args.num_thread) as pool:
        while True:
            some = list(itertools.islice(items, AT_ONCE * args.num_thread))
            if not some:
                return
            for number, content in pool.imap(lambda item: packed(args, item), some):
                if content is not None:
                    record.write_idx(number, content)
            print('%d images' % len(record.keys))


def main():
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog='python -m mxnet.tools.im2rec', description='Pack images for a training.')
    parser.add_argument('prefix', help='of the files: PREFIX.lst, PREFIX.rec, PREFIX.idx')
    parser.add_argument('root', help='the folder of images')
    parser.add_argument('--list', action='store_true', help='write PREFIX.lst; without it, PREFIX.rec from PREFIX.lst')
    parser.add_argument('--recursive', action='store_true', help='take folders in folders, each with its own label')
    parser.add_argument('--no-shuffle', dest='shuffle', action='store_false', help='keep the order of the names')
    parser.add_argument('--exts', nargs='+', default=['.jpeg', '.jpg', '.png'], help='endings of images')
    parser.add_argument('--num-thread', type=int, default=1, help='threads that encode (default: %(default)s)')
    parser.add_argument('--quality', type=int, default=95, help='of the JPEG files (default: %(default)s)')
    parser.add_argument('--pass-through', action='store_true', help='pack the files as they are')
    args = parser.parse_args()
    if not os.path.isdir(args.root) or not 1 <= args.quality <= 100 or args.num_thread < 1:
        parser.error('%s is not a folder, or --quality is not from 1 to 100, or --num-thread below 1' % args.root)
    try:
        count = write_list(args) if args.list else write_records(args)
    except (OSError, ValueError) as error:
        sys.stderr.write('im2rec: %s\n' % error)
        return 2
    print('%s: %d images' % (args.prefix + ('.lst' if args.list else '.rec'), count))
    return 0 if count else 1


if __name__ == '__main__':
    sys.exit(main())
