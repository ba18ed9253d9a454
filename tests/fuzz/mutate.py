"""Seeded mutations of good files. The same seed, number and corpus give the same bytes, everywhere.

Half of what a fuzzer finds it finds with bytes; the other half needs the format: numbers of another
size, nesting without end, names that lead elsewhere, text that is none.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

LARGEST = 1 << 18
"""Bytes of an input. Files of any size are refused by their size or read in pieces."""
OPERATIONS = (1, 1, 1, 2, 2, 3, 5, 8)
"""How many mutations an input gets: mostly few, so that it stays nearly good."""

NUMBERS = (
    *(b"0", b"-0", b"-1", b"1e308", b"-1e999", b"NaN", b"nan", b"Infinity", b"inf", b".inf", b"-5"),
    *(b"4294967296", b"9223372036854775808", b"-9223372036854775809", b"1e-320", b"0x10", b"1_000"),
    *(b"9" * 40, b"9" * 400, b"9" * 5000, b"0.1e1", b"007", b"1.5", b"\xd9\xa3", b"\xc2\xb2"),
)
"""Also digits that are no ASCII: an Arabic three and a raised two."""
TEXTS = (
    *(
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\r",
        b"\r\n",
    ),
    *(b"../", b"/etc/passwd", b"..\\..\\", b"~", b"$HOME", b"\xe2\x80\xae", b"\x1b[31m", b"\x7f"),
    *(b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", b"\t", b" ", b",", b"'", b'"', b"\\", b"%s"),
    *(b"null", b"true", b"[]", b"{}", b'""', b"<script>", b"{{ 7 }}", b"A" * 300, b"x" * 20_000),
)
NESTS = (b"[", b"{", b"(", b'{"a":', b"[[", b"- ", b"&a [*a, ", b"<a>", b"? ")
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62)

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[A-Za-z_][\w./-]*")

Operation = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def stream(target: str, seed: int, number: int) -> random.Random:
    """Random numbers of one input."""
    return random.Random(f"{target}:{seed}:{number}")


def mutated(
    rng: random.Random, content: bytes, others: Sequence[bytes], tokens: Sequence[bytes]
) -> bytes:
    """`content` with a few mutations.

    Args:
        others: further good files of the kind, to splice from.
        tokens: words of the format.
    """
    fate = rng.random()
    if fate < 0.005:
        return b""
    if fate < 0.015:
        return rng.randbytes(rng.choice((1, 7, 64, 1000)))
    found = bytearray(content)
    for _ in range(rng.choice(OPERATIONS)):
        rng.choice(_OPERATIONS)(rng, found, others, tokens)
        if len(found) > LARGEST:
            del found[LARGEST:]
    return bytes(found)


def _place(rng: random.Random, found: bytearray) -> int:
    # Headers stand at the start: half of all mutations go there.
    size = len(found)
    return rng.randrange(min(size, 200) + 1) if rng.random() < 0.5 else rng.randrange(size + 1)


def _piece(rng: random.Random, found: bytearray) -> slice:
    start = _place(rng, found)
    return slice(start, start + rng.choice((1, 2, 4, 8, 40, 300, 5000)))


def _flip(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    for _time in range(rng.choice((1, 1, 2, 8))):
        if found:
            found[min(_place(rng, found), len(found) - 1)] ^= 1 << rng.randrange(8)


def _set_byte(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    if found:
        found[min(_place(rng, found), len(found) - 1)] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))


def _truncate(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    del found[rng.randrange(len(found) + 1) :]


def _drop(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    del found[_piece(rng, found)]


def _double(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    piece = _piece(rng, found)
    found[piece.start : piece.start] = found[piece] * rng.choice((1, 1, 2, 30))


def _splice(rng: random.Random, found: bytearray, others: Sequence[bytes], *_: object) -> None:
    other = bytearray(rng.choice(others)) if others else found
    found[_place(rng, found) :] = other[_place(rng, other) :]


def _insert(
    rng: random.Random, found: bytearray, _: Sequence[bytes], tokens: Sequence[bytes]
) -> None:
    text = rng.choice(tokens) if tokens and rng.random() < 0.6 else rng.choice(TEXTS)
    place = _place(rng, found)
    found[place:place] = text


def _number(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    """One number as text becomes another."""
    places = [match.span() for match in _NUMBER.finditer(found[:20_000])]
    if places:
        start, end = rng.choice(places)
        found[start:end] = rng.choice(NUMBERS)


def _word(
    rng: random.Random, found: bytearray, _: Sequence[bytes], tokens: Sequence[bytes]
) -> None:
    """One word becomes another, of the same file, of the format or hostile."""
    places = [match.span() for match in _WORD.finditer(found[:20_000])]
    if places:
        start, end = rng.choice(places)
        a, b = rng.choice(places)
        found[start:end] = rng.choice(
            (bytes(found[a:b]), rng.choice(tokens or TEXTS), rng.choice(TEXTS))
        )


def _integer(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    """A binary field of 1, 2, 4 or 8 bytes, either way round."""
    width = rng.choice((1, 2, 4, 4, 8))
    value = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
    place = _place(rng, found)
    found[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _nest(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    place = _place(rng, found)
    found[place:place] = rng.choice(NESTS) * rng.choice((1, 3, 40, 1100, 20_000))


def _lines(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    """Lines doubled, lost or in another order, or with other ends."""
    lines = bytes(found).split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines[one], lines[other] = lines[other], lines[one]
        case 1:
            lines.insert(one, lines[other])
        case 2:
            del lines[one]
        case 3:
            lines = [line + b"\r" for line in lines]
        case _:
            lines[one] = lines[one] + rng.choice((b" ", b",", b"\t", b",,", b" #", b":"))
    found[:] = b"\n".join(lines)


def _mark(rng: random.Random, found: bytearray, *_: Sequence[bytes]) -> None:
    """A byte order mark, or another encoding."""
    match rng.randrange(3):
        case 0:
            found[0:0] = b"\xef\xbb\xbf"
        case 1:
            found[:] = bytes(found).decode("latin-1").encode("utf-16")
        case _:
            found[_place(rng, found) :] = b"\x00" * rng.choice((1, 16, 512))


_OPERATIONS: tuple[Operation, ...] = (
    *(_flip, _flip, _set_byte, _truncate, _drop, _double, _splice, _insert, _insert),
    *(_number, _number, _word, _word, _integer, _integer, _nest, _lines, _lines, _mark),
)
