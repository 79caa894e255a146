"""Whether a file ends where its format says that it does: what was cut off is then known, whatever decodes.

A format is looked at by its own units: pages, tags, packs, boxes. Only their heads are read, of most formats the last.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from av.packet import Packet

TAIL = 1 << 18  # bytes: more than the largest unit of these formats, an Ogg page or a pack of a program stream
UNREAD, UNREAD_SHARE = 4096, 0.02  # bytes, and of the file, that may follow the last packet: padding, an index

_TRANSPORT = (188, 192, 204)  # bytes of a packet: plain, with a time before it (m2ts), with error correction after it
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # GUID of the file properties object
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


class Ending:
    """The end of a file of the format `container` (libav's name for it), as far as its packets reach."""

    def __init__(self, container: str) -> None:
        self._container, self._read_to = container, 0

    def add(self, packet: Packet[Any]) -> None:
        """Records one packet, whichever stream it belongs to."""
        self._read_to = max(self._read_to, (packet.pos or 0) + packet.size)

    def fault(self, path: Path) -> str:
        """What is wrong with the file's end; "" where nothing is."""
        check = _CHECKS.get(self._container)
        if check is None:
            return ""
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            fault = check(file, size)
        unread = size - self._read_to
        if not fault and self._container not in _INDEXED and self._read_to and unread > UNREAD + UNREAD_SHARE * size:
            return f"nothing can be read of its last {unread} bytes"
        return fault


def _matroska(file: IO[bytes], size: int) -> str:
    """The segment says how long it is, unless it was written live."""
    place = 0
    for wanted in (_EBML, _SEGMENT):
        file.seek(place)
        head = file.read(12)
        if len(head) < 12 or int.from_bytes(head[:4], "big") != wanted:
            return ""
        width = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if width > 8 or length == (1 << 7 * width) - 1:
            return ""
        place += 4 + width + length
    return f"its segment is {place - size} bytes longer than the file" if place > size else ""


def _transport_stream(file: IO[bytes], size: int) -> str:
    head = file.read(8 * max(_TRANSPORT))
    for unit in _TRANSPORT:
        lead = head[:unit].find(b"\x47")
        if lead >= 0 and head[lead::unit] and set(head[lead::unit][:4]) == {0x47}:
            break
    else:
        return ""
    if size % unit:
        return f"its last packet has {size % unit} of {unit} bytes"
    file.seek(size - unit + lead)
    return "" if file.read(1) == b"\x47" else "its last packet is none"


def _ogg(file: IO[bytes], size: int) -> str:
    """Pages follow one another to the end, numbered within each stream."""
    place, numbers = 0, dict[bytes, int]()
    while place < size:
        file.seek(place)
        head = file.read(27 + 255)
        if len(head) < 27 or head[:4] != b"OggS":
            return f"what stands at byte {place} is no page"
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        if number != numbers.get(stream, number - 1) + 1 and not head[5] & 2:  # 2: a stream begins
            return f"{number - numbers[stream] - 1} pages are missing before byte {place}"
        numbers[stream] = number
        place += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return "" if place == size else f"its last page lacks {place - size} bytes"


def _fragments(file: IO[bytes], size: int) -> str:
    """Boxes follow one another to the end; asked only of a file in fragments, for the others have a table."""
    place, fragments = 0, False
    while place < size:
        file.seek(place)
        head = file.read(16).ljust(16, b"\0")
        fragments |= head[4:8] == b"moof"
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length or size - place
        if length < 8 or not head[4:8].isalnum():
            return f"what stands at byte {place} is no box" if fragments else ""
        place += length
    return f"its last fragment lacks {place - size} bytes" if fragments and place > size else ""


def _flash(file: IO[bytes], size: int) -> str:
    _, tail = _tail(file, size, 4)
    length = int.from_bytes(tail, "big")
    file.seek(max(0, size - 4 - length))
    head = file.read(4)
    whole = length >= 11 and len(head) == 4 and int.from_bytes(head[1:], "big") + 11 == length
    return "" if whole else "its last tag is not whole"


def _asf(file: IO[bytes], size: int) -> str:
    head = file.read(1 << 16)
    at = head.find(_ASF_FILE)
    if at < 0 or len(head) < at + 92:
        return ""
    (declared,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88)
    return f"it says that it has {declared} bytes" if not flags & 1 and declared > size else ""


def _program_stream(file: IO[bytes], size: int) -> str:
    """From the last pack that is one, unit by unit."""
    start, tail = _tail(file, size)
    at = tail.rfind(b"\0\0\1\xba")
    if at < 0:
        return "it does not end with a pack"
    while at < len(tail):
        code = tail[at : at + 4]
        if code == b"\0\0\1\xba":
            second = tail[at + 4 : at + 5] >= b"\x40"
            at += (14 + (tail[at + 13] & 7 if len(tail) > at + 13 else 0)) if second else 12
        elif code == b"\0\0\1\xb9":
            at += 4
        elif code[:3] == b"\0\0\1" and len(code) == 4:
            at += 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
        elif not tail[at:].strip(b"\0\xff"):
            return ""  # padding
        else:
            return f"what stands at byte {start + at} is no pack"
    return f"its last pack lacks {at - len(tail)} bytes" if at > len(tail) else ""


def _gif(file: IO[bytes], size: int) -> str:
    _, tail = _tail(file, size)
    return "" if tail.rstrip(b"\0").endswith(b";") else "it has no end mark"


def _tail(file: IO[bytes], size: int, length: int = TAIL) -> tuple[int, bytes]:
    start = max(0, size - length)
    file.seek(start)
    return start, file.read()


_CHECKS: dict[str, Callable[[IO[bytes], int], str]] = {
    "matroska,webm": _matroska,
    "mpegts": _transport_stream,
    "ogg": _ogg,
    "flv": _flash,
    "asf": _asf,
    "gif": _gif,
    "mov,mp4,m4a,3gp,3g2,mj2": _fragments,
    "mpeg": _program_stream,
}
# An index may follow the last packet; a packet of Ogg is placed by its page.
_INDEXED = ("matroska,webm", "asf", "ogg", "gif", "mov,mp4,m4a,3gp,3g2,mj2")
