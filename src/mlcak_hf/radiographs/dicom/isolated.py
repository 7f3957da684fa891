"""Decoders that may hang or crash, run in a child process, so that a bad file is one error and work continues."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from io import RawIOBase
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from ...errors import DicomError
from . import frame_decoder
from .frame_decoder import ANSWER, REQUEST

TIME_LIMIT_S = 8.0
"""Time limit for decoding one image; the largest radiographs need about one second."""

START_LIMIT_S = 60.0
"""Time limit for the child to start and load its decoder, for example from a network drive."""

_Values = npt.NDArray[np.integer]
_DTYPES = (b"u1", b"i1", b"u2", b"i2")
_REMEDY = "Download or export the file again, or leave it out."


class IsolatedDecoder:
    """A child process that decodes one frame after the other. It is started when needed and restarted after a crash.

    It is a plain program connected by two pipes and not a `multiprocessing` worker, because daemonic pool workers may
    not start those. It ends with its parent, when the pipes close.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, decoder: str, frame: bytes, rows: int, columns: int) -> npt.NDArray[np.integer]:
        """Decode a frame.

        Args:
            decoder, frame: As in [`decode_frame`].
            rows, columns (`int`):
                Expected size in pixels.

        Returns:
            `np.ndarray` of shape `(rows, columns)`: Integers.

        Raises:
            [`DicomError`]: When the frame cannot be decoded within the limits of time and memory.
        """
        with self._lock:
            try:
                if self._child is None or self._child.poll() is not None:
                    self._start(decoder)
                return self._ask_in_time(TIME_LIMIT_S, decoder, frame, rows, columns)
            except TimeoutError as error:
                self.stop()
                raise DicomError(f"Decoding was stopped after {error} s: the data is damaged. {_REMEDY}") from None
            except (OSError, EOFError):
                self.stop()
                raise DicomError(f"The data is damaged and crashed the decoder. {_REMEDY}") from None

    def stop(self) -> None:
        """Stop the child process, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _start(self, decoder: str) -> None:
        """Start the child, and have it load its decoder with an empty frame, which fails."""
        self.stop()
        # A decoder uses one thread, but numpy would reserve memory for one per core. No buffers, so that a fork cannot
        # copy half a request.
        self._child = subprocess.Popen(
            [sys.executable, str(Path(frame_decoder.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        with contextlib.suppress(DicomError):
            self._ask_in_time(START_LIMIT_S, decoder, b"", 0, 0)

    def _ask_in_time(self, limit_s: float, decoder: str, frame: bytes, rows: int, columns: int) -> _Values:
        """Ask the child; kill it if it takes too long and raise TimeoutError with the limit as text."""
        child, start = self._child, time.monotonic()
        assert child is not None
        timer = threading.Timer(limit_s, child.kill)
        timer.daemon = True
        timer.start()
        try:
            return _ask(child, decoder, frame, rows, columns)
        except (OSError, EOFError):
            if time.monotonic() - start >= limit_s:
                raise TimeoutError(f"{limit_s:g}") from None
            raise
        finally:
            timer.cancel()


def _ask(child: subprocess.Popen[bytes], decoder: str, frame: bytes, rows: int, columns: int) -> _Values:
    """Send one frame and read the answer; raise EOFError if the child ends early or its answer is malformed."""
    requests, answers = cast(RawIOBase, child.stdin), cast(RawIOBase, child.stdout)
    rest = memoryview(REQUEST.pack(decoder.encode(), len(frame)) + frame)
    while rest:
        rest = rest[requests.write(rest) :]
    kind, dtype, height, width = ANSWER.unpack(_read(answers, ANSWER.size))
    if kind == b"E" and height <= 100:
        name = bytes(_read(answers, height)).decode("ascii", "replace")
        needs = f"more than {frame_decoder.MEMORY_BYTES:,} bytes of memory" if name == "MemoryError" else name
        raise DicomError(f"The compressed data cannot be decoded ({needs}). {_REMEDY}")
    if kind != b"A" or dtype not in _DTYPES or (height, width) != (rows, columns):
        raise EOFError
    array = np.frombuffer(_read(answers, rows * columns * int(dtype[1:])), dtype=dtype.decode())
    return array.reshape(rows, columns)


def _read(stream: RawIOBase, length: int) -> memoryview:
    data = rest = memoryview(bytearray(length))
    while rest:
        if not (count := stream.readinto(rest)):
            raise EOFError
        rest = rest[count:]
    return data


_decoder = IsolatedDecoder()


def decode_isolated(decoder: str, frame: bytes, rows: int, columns: int) -> npt.NDArray[np.integer]:
    """Decode a frame in the child of this process, see [`IsolatedDecoder.decode`]."""
    return _decoder.decode(decoder, frame, rows, columns)


def _forget_child() -> None:
    """After a fork, leave the child to the process that started it."""
    global _decoder
    _decoder = IsolatedDecoder()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_child)
