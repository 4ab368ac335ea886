"""Write a data set in insightface's formats, for `records` and `pairs` to read."""

import os
import pickle

from netkit._mxnet import mx


def write_records(folder, side, counts, images):
    """Write `train.rec`, `train.idx` and `property` of people with `counts` images each, `side` pixels a side.

    `images` are theirs, encoded, in order. Record 0 holds the range of the identity records, each of these the range of
    its images. MXNet ignores an error of the last write: read the files back.
    """
    with open(os.path.join(folder, 'property'), 'w') as file:
        file.write(f'{len(counts)},{side},{side}\n')
    record = mx.recordio.MXIndexedRecordIO(os.path.join(folder, 'train.idx'), os.path.join(folder, 'train.rec'), 'w')
    first_identity = sum(counts) + 1

    def write(index, label, content=b''):
        record.write_idx(index, mx.recordio.pack(mx.recordio.IRHeader(0, label, index, 0), content))

    write(0, [first_identity, first_identity + len(counts)])
    labels = (label for label, count in enumerate(counts) for _ in range(count))
    for index, (label, image) in enumerate(zip(labels, images), 1):
        write(index, float(label), image)
    start = 1
    for label, count in enumerate(counts):
        write(first_identity + label, [start, start + count])
        start += count
    record.close()


def write_pairs(path, images, same):
    """Write verification pairs: 2n encoded images, and n times whether a pair is of the same person."""
    with open(path, 'wb') as file:
        pickle.dump((images, same), file, protocol=2)
