"""Compressed frame -> array. Also a program that decodes in a separate process, see `isolated.py`.

A decoder that hangs or crashes takes its process with it. As a program, this file starts in a fraction of a second and
imports only numpy and the requested decoder.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

MEMORY_BYTES = 1_000_000_000
"""Memory limit for decoding one image in a separate process; the largest radiographs need a fifth."""

DEADLINE_S = 90
"""The process ends itself after this time: its parent has given up waiting, or is gone."""

REQUEST = struct.Struct("<32sQ")
"""Name of the decoder, and length of the frame that follows."""

ANSWER = struct.Struct("<c2sII")
"""b"A", dtype, rows and columns of the array that follows; or b"E", empty, and the length of the error's name."""


def decode_frame(decoder: str, frame: bytes) -> Any:
    """Decode a compressed frame.

    Args:
        decoder (`str`):
            Module and function: `"PIL.Image.open"`, or one that takes the frame and returns an array.
        frame (`bytes`):
            The compressed image.

    Returns:
        `np.ndarray` of shape `(rows, columns)` for a grayscale image: Integers.
    """
    module, _, function = decoder.rpartition(".")
    decode = getattr(importlib.import_module(module), function)
    if decoder != "PIL.Image.open":
        return decode(frame)
    with decode(io.BytesIO(frame), formats=("JPEG",)) as picture:
        return importlib.import_module("numpy").asarray(picture)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Decode one frame after the other until the parent closes the pipe or ends."""
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        decoder, length = REQUEST.unpack(head)
        _set_alarm(DEADLINE_S)
        try:
            array = decode_frame(decoder.rstrip(b"\0").decode(), requests.read(length))
            rows, columns = array.shape
            head, body = ANSWER.pack(b"A", array.dtype.str[1:].encode(), rows, columns), array.tobytes()
        except Exception as error:
            body = type(error).__name__.encode()
            head = ANSWER.pack(b"E", b"", len(body), 0)
        _set_alarm(0)
        answers.write(head)
        answers.write(body)
        answers.flush()


def _set_alarm(seconds: int) -> None:
    """Have the system end this process after `seconds`, even if a decoder hangs; 0 cancels."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def _limit_memory() -> None:
    """Fail in this process instead of exhausting the memory of the machine."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not available on this system
        resource = importlib.import_module("resource")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its files must not shadow other modules
    importlib.import_module("numpy")
    _limit_memory()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep output of libraries out of the answers
    serve(sys.stdin.buffer, pipe)
