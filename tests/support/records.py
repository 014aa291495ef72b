"""Event files as TensorBoard writes them."""

import struct

from hubsync.watch.format_records import masked_crc32c


def record(content: bytes) -> bytes:
    """Return *content* as one record of a TFRecord file."""
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))
