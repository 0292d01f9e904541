"""What `medd serve` costs when nothing comes in, and whether its memory and its rate stay where they were."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from peers import MeddWhole, count_rows, wait_until
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


def send_synthetic(medd: MeddWhole, count: int, seed: int) -> None:
    """Let `medd load` send distinct images from 4 associations, each as soon as the one before is answered."""
    medd_command = str(Path(sys.executable).with_name("medd"))
    target = f"MEDD@127.0.0.1:{medd.port}"
    options = ["--count", count, "--senders", 4, "--size", 224, "--seed", seed, "--retry-s", 60, "--home", medd.home]
    done = subprocess.run([medd_command, "load", target, *map(str, options)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: medd load: {done.stderr or done.stdout}")


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--idle", type=float, default=60, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=10_000, help="in ten parts; default: %(default)s")
    args = parser.parse_args()
    idle_s, part, parts = (10, 200, 5) if args.quick else (args.idle, max(1, args.images // 10), 10)

    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    try:
        for _ in range(args.rounds):
            with MeddWhole(scratch) as medd:
                time.sleep(5)  # start-up is over
                processes = tree(medd)
                titles = list(map(title, processes))
                cpu, start = cpu_seconds(processes), time.perf_counter()
                time.sleep(idle_s)
                cpu, idle = cpu_seconds(processes) - cpu, time.perf_counter() - start
                rows = []
                rates = []
                for number in range(parts + 1):
                    if number:
                        start = time.perf_counter()
                        send_synthetic(medd, part, number)
                        wanted = number * part
                        wait_until(lambda n=wanted: count_rows(medd.database, SETTLED) >= n, 7200, "results", 0.5)
                        rates.append(part / (time.perf_counter() - start))
                        time.sleep(2)
                    # Decoders start with the first image.
                    fresh = [one for one in tree(medd) if one not in processes]
                    processes, titles = [*processes, *fresh], [*titles, *map(title, fresh)]
                    seen = memory([one for one in processes if one.is_running()])
                    cells = [
                        f"{seen[one.pid][0]:.0f} ({seen[one.pid][1]:.0f})" if one.pid in seen else "ended"
                        for one in processes
                    ]
                    rows.append([f"{number * part:,}", f"{rates[-1]:.1f}" if rates else "", *cells])
                    print(rows[-1], file=sys.stderr)
                header = ["images", "images/s", *titles]
                rows = [row + [""] * (len(header) - len(row)) for row in rows]
            note = (
                f"Idle for {idle:.0f} s, all processes together used {cpu:.2f} s of CPU: {100 * cpu / idle:.2f} % of a "
                f"core. Below, for each part: images of 224² from 4 senders per second, from the first one sent to the "
                f"last result; then resident memory, in brackets what is not shared, MiB. Last part against the first: "
                f"{rates[-1] / rates[0]:.2f}×. {machine(args.scratch)}."
            )
            report("Idle, and memory", note, header, rows, args.output)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
