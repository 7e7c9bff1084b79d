"""Stopping a run by hand without losing it."""

import os
import signal
import sys
from types import FrameType


class Interrupt:
    """Context in which the first Ctrl-C or SIGTERM sets ``requested`` and the second exits at once (130).

    Loops ask ``requested`` between two steps, save, and raise ``KeyboardInterrupt``.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """``quiet``: say nothing, where another process does."""
        self.quiet, self.requested = quiet, False

    def __enter__(self) -> "Interrupt":
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` when a stop was asked for."""
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if sys.stderr.isatty():  # a progress bar hides the cursor
                os.write(sys.stderr.fileno(), b"\x1b[?25h\n")
            os._exit(130)
        self.requested = True
        if not self.quiet:
            # Not print: the signal may have come in the middle of one, and entering it again is an error.
            os.write(2, b"stopping after this step, then saving; once more: stop at once, without saving\n")
