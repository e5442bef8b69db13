"""What kind of file one is, by its first bytes."""

from __future__ import annotations

HEADER_LIMIT = 4 << 20  # bytes of the header of a packed file


def looks_like_checkpoint(head: bytes) -> bool:
    """Whether a file that begins with `head` is one of torch.save, a zip archive.

    A packed file begins with the length of its header, which these four bytes would make 67 MB: more than it may be.
    """
    return head[:4] == b"PK\x03\x04"


def looks_packed(head: bytes) -> bool:
    """Whether a file that begins with `head` is one of safetensors: a header's length, and its first brace."""
    return len(head) > 8 and 0 < int.from_bytes(head[:8], "little") <= HEADER_LIMIT and head[8:9] == b"{"
