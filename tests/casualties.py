"""Work that ends the process it is done in."""

import os
import signal
import time

import numpy as np

from medd.errors import InputError
from medd.records import Reason


def work(item: tuple[str, object]) -> object:
    """A word that says what happens, and its argument."""
    what, value = item
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(3)
    if what == "hang":
        time.sleep(3600)
    if what == "swell":
        return np.ones(int(value)).sum()
    if what == "refuse":
        raise InputError(Reason.BLANK_IMAGE, f"no contrast. Received: {value}")
    if what == "stumble":
        raise ValueError(value)
    return os.getpid() if what == "pid" else value
