"""dmlc's RecordIO, the format of `train.rec`: a record at an offset of a file, and the bytes of a record.

A record is a magic number (uint32), 3 bits that tell parts of a record and 29 of their length, the data, and zeros up
to a multiple of 4. Data that contain the magic number at a multiple of 4 are split there.

`patch_insightface.py --without-mxnet` copies this file into arcface_torch. Needs nothing but Python.
"""

import os
import struct

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack('<I', MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)  # parts of a record
LONGEST = (1 << 29) - 1
HEADER = struct.Struct('<IfQQ')  # in front of an image: flag, label, two ids; a flag above 0 is the number of labels


def parse_head(start):
    """Return (part, length) of the record, or part of one, that begins with 8 bytes; None where none begins."""
    if len(start) < 8:
        return None
    magic, word = struct.unpack('<II', start)
    return (word >> 29, word & LONGEST) if magic == MAGIC else None


def record_at(file, place):
    """Return the content of the record at an offset of an open file descriptor.

    It moves no file position, which processes that were forked would share. Raises ValueError where no record begins,
    or the file ends within it.
    """
    parts = []
    while True:
        head = parse_head(os.pread(file, 8, place))
        if head is None:
            raise ValueError(f'there is no record at {place}')
        part, length = head
        content = os.pread(file, length, place + 8)
        if len(content) < length:
            raise ValueError(f'the file ends within the record at {place}')
        parts.append(content)
        place += 8 + (length + 3) // 4 * 4
        if part in (WHOLE, LAST):
            return MAGIC_BYTES.join(parts)


def record_of(content):
    """Return the bytes of a record; raises ValueError for a content of more than 512 MB."""
    if len(content) > LONGEST:
        raise ValueError(f'a record has at most {LONGEST:,} bytes, not {len(content):,}')
    cuts, found = [], content.find(MAGIC_BYTES)
    while found >= 0:
        if found % 4 == 0:
            cuts.append(found)
        found = content.find(MAGIC_BYTES, found + (4 if found % 4 == 0 else 1))
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(content)]
    kinds = [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST] if cuts else [WHOLE]
    return b''.join(
        struct.pack('<II', MAGIC, kind << 29 | end - start) + content[start:end] + bytes(-(end - start) % 4)
        for kind, start, end in zip(kinds, starts, ends)
    )
