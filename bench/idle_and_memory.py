"""What `medd serve` costs when nothing comes in, and whether its memory stays where it was."""

import shutil
import tempfile
import time
from pathlib import Path

import psutil
from images import make
from peers import MeddWhole, count_rows, send, wait_until
from tables import arguments, machine, report

MIB = 1024 * 1024
SETTLED = "SELECT count(*) FROM instance WHERE status <> 'pending'"


def tree(medd: MeddWhole) -> list[psutil.Process]:
    """Every process of the daemon, the supervisor first."""
    return [medd.process, *sorted(medd.process.children(recursive=True), key=lambda process: process.pid)]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """User and system time so far."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def memory(processes: list[psutil.Process]) -> dict[int, tuple[float, float]]:
    """By process id: resident memory, and the part of it that is not shared with others, MiB."""
    full = {process.pid: process.memory_full_info() for process in processes}
    return {pid: (info.rss / MIB, info.uss / MIB) for pid, info in full.items()}


def title(process: psutil.Process) -> str:
    """What is special in its command line."""
    words = [word for word in process.cmdline()[1:] if "/" not in word and "\n" not in word]
    return f"`{' '.join(words)[:60]}`"


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--idle", type=float, default=60, metavar="SECONDS", help="default: %(default)s")
    args = parser.parse_args()
    idle_s = 10 if args.quick else args.idle
    batch, batches = (200, 5) if args.quick else (1000, 10)

    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    try:
        for _ in range(args.rounds):
            with MeddWhole(scratch) as medd:
                time.sleep(5)  # start-up is over
                processes = tree(medd)
                cpu, start = cpu_seconds(processes), time.perf_counter()
                time.sleep(idle_s)
                cpu, idle = cpu_seconds(processes) - cpu, time.perf_counter() - start

                seen = [memory(processes)]
                for number in range(batches):
                    folders = make(scratch / "images", batch, 224, senders=4, first=1_000_000 + number * batch)
                    send(medd.port, folders)
                    shutil.rmtree(scratch / "images")
                    wanted = (number + 1) * batch
                    wait_until(lambda n=wanted: count_rows(medd.database, SETTLED) >= n, 600, f"{wanted} images", 0.5)
                    if number in (0, batches - 1):
                        time.sleep(2)
                        seen.append(memory(processes))
                rows = [
                    [title(process), *(f"{rss:.0f} ({uss:.0f})" for rss, uss in (m[process.pid] for m in seen))]
                    for process in processes
                ]
                if tree(medd) != processes:
                    rows.append(["a process was replaced meanwhile", *[""] * len(seen)])
            note = (
                f"Idle for {idle:.0f} s, all processes together used {cpu:.2f} s of CPU: {100 * cpu / idle:.2f} % of a "
                f"core. Below: resident memory, in brackets what is not shared, MiB. {machine(args.scratch)}."
            )
            header = ["process", "at the start", f"after {batch} images", f"after {batch * batches} images"]
            report("Idle, and memory", note, header, rows, args.output)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
