"""Encoding commands in RESP, the protocol of Redis.

Protocol: https://github.com/redis/redis-specifications/blob/master/protocol/RESP2.md
"""


def bulk_string(text: str) -> str:
    """Encode one part of a command."""
    size = len(text) if text.isascii() else len(text.encode())
    return f"${size}\r\n{text}\r\n"


def packed_command(*parts: str) -> bytes:
    """Encode a whole command."""
    return f"*{len(parts)}\r\n{''.join(map(bulk_string, parts))}".encode()
