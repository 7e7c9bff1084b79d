"""Stopping a run by hand without losing it."""

import os
import signal
import sys
from types import FrameType


class Interrupt:
    """Context in which the first Ctrl-C or SIGTERM sets ``requested`` and the second exits at once (130).

    Loops ask ``requested`` between two steps, save, and raise ``KeyboardInterrupt``.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interrupt":
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(130)
        self.requested = True
        print("stopping after this step; the run is saved and can be resumed (again: at once)", file=sys.stderr)
