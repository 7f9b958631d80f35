"""The bytes after the last part of a staged object, in memory."""

from collections.abc import Sequence

from storage.drivers import PIECE_BYTES

Piece = bytes | memoryview


class Buffer:
    """Pieces in order, and how many bytes they are."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[Piece] = []

    def add(self, pieces: Sequence[Piece]) -> None:
        """Append pieces."""
        self._pieces.extend(pieces)
        self.size += sum(map(len, pieces))

    def joined(self) -> bytes:
        """Everything in one piece, and no second time in memory."""
        body = b"".join(self._pieces)
        self._pieces = [body] if body else []
        return body

    def cut(self, size: int) -> bytes:
        """Take that many bytes from the front, or all there are."""
        taken: list[Piece] = []
        rest = min(size, self.size)
        self.size -= rest
        for index, piece in enumerate(self._pieces):
            if len(piece) >= rest:
                taken.append(memoryview(piece)[:rest])
                left: list[Piece] = [bytes(memoryview(piece)[rest:])] if len(piece) > rest else []
                self._pieces = left + self._pieces[index + 1 :]
                break
            taken.append(piece)
            rest -= len(piece)
        return b"".join(taken)

    def shorten(self, size: int) -> int:
        """Keep that many bytes at the front; returns how many went."""
        kept: list[Piece] = []
        rest = size
        for piece in self._pieces:
            if rest <= 0:
                break
            kept.append(piece[:rest])
            rest -= len(kept[-1])
        gone = self.size - size
        self._pieces, self.size = kept, size
        return gone

    def clear(self) -> int:
        """Drop everything; returns how many bytes that were."""
        return self.shorten(0)


def batches(pieces: Sequence[bytes]) -> list[list[Piece]]:
    """The pieces in groups of about PIECE_BYTES, in which memory is asked for."""
    grouped: list[list[Piece]] = [[]]
    count = 0
    for piece in pieces:
        for first in range(0, len(piece), PIECE_BYTES):
            part = piece if len(piece) <= PIECE_BYTES else memoryview(piece)[first : first + PIECE_BYTES]
            grouped[-1].append(part)
            count += len(part)
            if count >= PIECE_BYTES:
                grouped.append([])
                count = 0
    return grouped
