"""Compressed frame -> array, by the libraries that decode. Also a program that does so in a process of its own.

A library that hangs or dies takes its process with it. So this file can be run by itself (see `isolated.py`); it starts
in a fraction of a second, and imports nothing but numpy and the library that is asked for.
"""

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
"""What decoding one image may take in a process of its own; the largest radiographs need a fifth."""

DEADLINE_S = 90
"""A decoder that is still busy after this time has been given up by its parent, or has lost it."""

REQUEST = struct.Struct("<32sQ")
"""Name of the decoder, and number of bytes of the frame that follows."""

ANSWER = struct.Struct("<c2sII")
"""b"A", dtype, rows and columns of the array that follows; or b"E", nothing, and the length of the error's name."""


def decode_frame(decoder: str, frame: bytes) -> Any:
    """Decode a compressed frame.

    Args:
        decoder: Module and function: "PIL.Image.open", or one that takes the frame and returns an array.
        frame: The compressed image.

    Returns:
        Integer array; of shape (rows, columns) if the frame is a grayscale image.
    """
    module, _, function = decoder.rpartition(".")
    decode = getattr(importlib.import_module(module), function)
    if decoder != "PIL.Image.open":
        return decode(frame)
    with decode(io.BytesIO(frame), formats=("JPEG",)) as picture:
        return importlib.import_module("numpy").asarray(picture)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Decode frame after frame, until the parent closes the pipe or ends."""
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
    """Let the system end this process after so many seconds, whatever a library is doing; 0 calls it off."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def _limit_memory() -> None:
    """Let what goes beyond the limit fail in this process, instead of driving the machine out of memory."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # no such limit on this system
        resource = importlib.import_module("resource")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its files are no modules for anybody else
    importlib.import_module("numpy")
    _limit_memory()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    serve(sys.stdin.buffer, pipe)
