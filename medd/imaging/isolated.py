"""Work on strangers' files in processes of its own: a crash, a hang or a swelling memory costs one of them.

Codecs are C code that is fed by whoever can reach the port. A thread that they hang cannot be stopped, and a process
that they crash takes everything in it along, so theirs hold nothing but the one file in work.
"""

import contextlib
import logging
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from typing import Any

from medd.errors import Casualty, MeddError, TransientError

log = logging.getLogger(__name__)

#: How long a process may take to start, seconds: it imports what it works with.
_START_S = 60.0
_READY = "ready"
#: For glibc (mallopt(3)): buffers of a film's size are kept for the next film, the second figure beyond what is in
#: use at most. Fetched anew they cost a page fault for every 4 KiB: 17 of 25 ms of an uncompressed film of 2048 × 2048.
_KEEP = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
#: One item is the work of one core. OpenBLAS, which NumPy and OpenCV each bring, would start a thread for every core at
#: the import: on 16 cores 496 threads that do nothing.
_ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Isolated:
    """Calls a function in child processes.

    Args:
        function: "module:function", called with one argument; argument and result are pickled. What it raises of
            `MeddError` is returned in place of a result; anything else too, as a `TransientError`.
        processes: How many; 0 for every core.
        timeout_s: Seconds for one item; then its process is killed.
        memory_mib: What one process may allocate (RLIMIT_DATA), MiB.
    """

    def __init__(self, function: str, processes: int = 0, timeout_s: float = 60, memory_mib: int = 4096) -> None:
        count = processes or os.cpu_count() or 1
        self._closed = threading.Event()
        self._children = [_Child(function, timeout_s, memory_mib, self._closed) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="isolated")
        # At the end of this process too, which would leave them to init otherwise.
        self._end = weakref.finalize(self, _kill_all, self._children)

    def start(self) -> None:
        """Start the processes, so that the first item does not wait for it; without it they start when needed."""
        for child in self._children:
            child.launch()

    def map(self, items: Iterable[Any]) -> list[Any]:
        """The function's result for each item, or the error that came in its place.

        Raises:
            TransientError: No process could be started, or `close` was called: nothing is said of any item.
        """
        return list(self._threads.map(self.call, items))

    def call(self, item: Any) -> Any:
        """As `map`, for one item."""
        child = self._idle.get()
        try:
            return child.call(item)
        except Casualty as error:
            return error
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """End the processes; items in work are given up."""
        self._closed.set()
        for child in self._children:
            child.stop()
        # Whoever waits for one that has just ended gives it back; its pipe is not to be closed under him.
        back = [self._idle.get() for _ in self._children]
        self._end()
        for child in back:
            self._idle.put(child)
        self._threads.shutdown()


def _kill_all(children: "list[_Child]") -> None:
    for child in children:
        child.kill()


class _Child:
    """One process, started when it is needed and again when it died."""

    def __init__(self, function: str, timeout_s: float, memory_mib: int, closed: threading.Event) -> None:
        self._function, self._timeout_s, self._memory_mib = function, timeout_s, memory_mib
        self._closed = closed
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._is_ready = False

    def launch(self) -> None:
        ours, theirs = Pipe()
        try:
            limits = [str(theirs.fileno()), self._function, str(self._timeout_s), str(self._memory_mib)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "medd.imaging.isolated", *limits],
                pass_fds=(theirs.fileno(),),
                env=os.environ | _KEEP | _ALONE,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Not the terminal's Ctrl-C: whoever holds the other end of the pipe decides.
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise TransientError(f"no process for decoding: {error.strerror}") from error
        finally:
            theirs.close()
        self._connection, self._is_ready = ours, False

    def call(self, item: Any) -> Any:
        connection = self._ready()
        try:
            connection.send(item)
            if not connection.poll(self._timeout_s):
                raise Casualty(f"did not finish within {self._timeout_s:g} s")
            return connection.recv()
        except (EOFError, OSError) as error:
            if self._closed.is_set():
                raise TransientError("decoding ends here") from error
            raise Casualty(f"ended its process ({self._cause()})") from error
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> "Connection[Any, Any]":
        if self._closed.is_set():
            raise TransientError("decoding ends here")
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.launch()
        assert self._connection is not None
        if not self._is_ready:
            # Apart from the work: a start that fails says nothing of the item.
            try:
                self._is_ready = self._connection.poll(_START_S) and self._connection.recv() == _READY
            except (EOFError, OSError):
                self._is_ready = False
            if not self._is_ready:
                self.kill()
                raise TransientError("no process for decoding: it does not start")
        return self._connection

    def _cause(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            return "it closed its pipe"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """End the process; called while another thread may wait for it."""
        process = self._process
        if process is not None:
            process.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _serve(connection: "Connection[Any, Any]", function: Callable[[Any], Any], timeout_s: float) -> None:
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        # Whoever would kill us when it takes too long may be dead by then; the default action of SIGALRM kills C code.
        signal.alarm(int(timeout_s) + 5)
        try:
            result = function(item)
        except MeddError as error:
            result = error
        except MemoryError:
            result = Casualty("needs more memory than a decoder has")
        except Exception as error:  # a fault of ours or of a codec, met by one item
            log.error("%s", traceback.format_exc(), extra={"event": "isolated.failed"})
            result = TransientError(f"preparation failed: {type(error).__name__}")
        signal.alarm(0)
        connection.send(result)


def main() -> None:
    """The child: ``python -m medd.imaging.isolated FD MODULE:FUNCTION TIMEOUT_S MEMORY_MIB``."""
    fd, function, timeout_s, memory_mib = sys.argv[1:]
    # Before the import: what is imported counts as well. No core dump, as it would hold a patient's image.
    limit = int(memory_mib) << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = function.partition(":")
    work: Callable[[Any], Any] = getattr(import_module(module), name)
    connection: Connection[Any, Any] = Connection(int(fd))
    # Our parent may die at any moment; then there is nobody to tell.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(_READY)
        _serve(connection, work, float(timeout_s))


if __name__ == "__main__":
    main()
