"""`medd plan` held against `medd load`: saturation, and waits and busy cores at three shares of it.

What a film costs is measured first, then a daemon gets films at an even pace. Its times are those in the database: from
the moment a film was received to that of its score. The sender works on the same cores, and its share is counted in.
"""

import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
from idle_and_memory import SETTLED, cpu_seconds, tree
from peers import MeddWhole, count_rows, wait_until
from tables import arguments, machine, report

from medd import settings
from medd.plan import costs as kept
from medd.plan.capacity import DAY_S, SHARE, Demand, assess
from medd.plan.measure import Effort, measure

#: Shares of the predicted saturation.
SHARES = (0.3, 0.6, 0.9)
SETTLE_S = 600
#: The start of this share of the films is not counted for the saturation.
START = 0.1
#: Scores that are not further apart are of one batch, seconds.
TOGETHER_S = 0.01
TIMES = """
SELECT instance.received_at, prediction.scored_at FROM instance JOIN prediction ON instance_id = instance.id
ORDER BY instance.id
"""


class Default(MeddWhole):
    """medd with every stage and its own model, whose costs were measured."""

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in super().environment().items() if name != "MEDD_MODEL__CLASSIFIER"}


def send(medd: Default, args, count: int, rate: float, seed: int) -> float:
    """Send films, and wait until all are scored; returns what the sender used of a core, seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sys.executable).with_name("medd")), "load", f"MEDD@127.0.0.1:{medd.port}"]
    options = ["--count", count, "--rate", rate, "--senders", 4, "--size", args.size, "--seed", seed]
    options += ["--transfer-syntax", args.transfer_syntax, "--home", medd.home, "--format", "json"]
    done = subprocess.run([*command, *map(str, options)], capture_output=True, text=True)
    if done.returncode or json.loads(done.stdout)["success"] != count:
        sys.exit(f"bench: medd load: {done.stderr or done.stdout}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def settle(medd: Default, count: int) -> None:
    """Wait until so many films are settled."""
    wait_until(lambda: count_rows(medd.database, SETTLED) >= count, SETTLE_S, f"results of {count} films", 0.1)


def times(medd: Default, first: int) -> list[tuple[float, float]]:
    """When each film from the `first` on was received, and scored, seconds."""
    with closing(sqlite3.connect(f"file:{medd.database}?mode=ro", uri=True)) as database:
        rows = database.execute(TIMES).fetchall()[first:]
    return [tuple(datetime.fromisoformat(text).timestamp() for text in row) for row in rows]


def throughput(seen: list[tuple[float, float]]) -> float:
    """Films scored a second while the daemon is full, from the end of one batch to that of the last."""
    scored = np.array([end for _, end in seen])
    first, last = np.quantile(scored, START, method="higher"), scored.max()
    return np.count_nonzero(scored > first + TOGETHER_S) / (last - first)


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--transfer-syntax", default="explicit")
    parser.add_argument("--seconds", type=float, default=60, help="at each rate (default: %(default)s)")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="of `medd plan --measure`, instead of measuring")
    args = parser.parse_args()
    seconds, full = (6, 100) if args.quick else (args.seconds, 300)
    args.size = min(args.size, 512) if args.quick else args.size
    cores = psutil.cpu_count() or 1

    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    try:
        known = settings.load(scratch)
        effort = Effort(4, 0.3) if args.quick else Effort()
        costs = kept.read(args.costs) if args.costs else measure(known, args.size, args.transfer_syntax, effort)
        with Default(scratch) as medd:
            began = send(medd, args, 1, 0, 1)
            settle(medd, 1)
            sender_s = (send(medd, args, full, 0, 2) - began) / (full - 1)
            settle(medd, 1 + full)
            measured_full = throughput(times(medd, 1))
        # What the sender uses is missing to the daemon as what its receiver does.
        shared = costs.model_copy(update={"receive_cpu_s": costs.receive_cpu_s + sender_s})
        limit = assess(shared, Demand(1), cores, 1)
        print(f"saturation: {limit.saturates_at:.2f}/s predicted, {measured_full:.2f}/s measured", file=sys.stderr)

        rows = []
        for number, share in enumerate(SHARES):
            rate = share * limit.saturates_at
            plan = assess(shared, Demand(rate * DAY_S, 1, arrival_scv=0), cores, 1)
            count = max(20, round(rate * seconds))
            with Default(scratch) as medd:
                send(medd, args, 8, 0, 10 + number)
                settle(medd, 8)
                used = cpu_seconds(tree(medd))
                sender = send(medd, args, count, rate, 20 + number)
                settle(medd, 8 + count)
                cpu_s = cpu_seconds(tree(medd)) - used + sender - began
                seen = np.array(times(medd, 8))
            # Not the time in which the sender starts, and the end is waited for.
            busy = cpu_s / (seen[:, 1].max() - seen[:, 0].min()) / cores
            took = seen[:, 1] - seen[:, 0]
            # A score has its time before it is committed.
            mean, p95 = plan.worked_mean_s - shared.commit_one_s, plan.worked_p95_s - shared.commit_one_s
            row = [f"{share:.0%}", f"{rate:.2f}", f"{mean:.2f}", f"{took.mean():.2f}", f"{p95:.2f}"]
            row += [f"{np.quantile(took, SHARE):.2f}", f"{plan.cores_busy:.0%}", f"{busy:.0%}", f"{plan.batch:.1f}"]
            rows.append(row)
            print(row, file=sys.stderr)
    finally:
        shutil.rmtree(scratch)
    films = f"{costs.size}×{costs.size}, {costs.transfer_syntax}, {costs.model}; {seconds:.0f} s at each rate."
    full_at = f"{limit.saturates_at:.2f} films/s predicted (the {limit.bound}), {measured_full:.2f} measured"
    note = (
        f"{films} Saturation: {full_at} with films that come as fast as they are answered. The sender uses "
        f"{1000 * sender_s:.0f} ms of a core for a film. {machine(args.scratch)}."
    )
    header = [
        "of the predicted saturation",
        "films/s",
        "mean s, predicted",
        "measured",
        "95 % within s, predicted",
        "measured",
    ]
    report(
        "Plan, against load",
        note,
        [*header, "cores busy, predicted", "measured", "batch, predicted"],
        rows,
        args.output,
    )


if __name__ == "__main__":
    main()
