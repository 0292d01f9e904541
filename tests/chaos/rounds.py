"""Rounds of faults, and the table of what they cost."""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.faults import Fault, faults_of
from tests.chaos.rig import Rig


@dataclass
class Report:
    """What happened."""

    kind: str
    seed: int
    rounds: int = 0
    answered: int = 0
    #: Files that nobody was told of, taken in or put aside by `medd reconcile --mend`.
    orphans: int = 0
    seconds: float = 0.0
    #: By fault: seconds from its end to the next answer, result and delivery, each time.
    recovery: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        count = sum(map(len, self.recovery.values()))
        return (
            f"{self.kind}, seed {self.seed}: {self.rounds} rounds, {count} faults, {self.answered} images answered with"
            f" success; lost 0, doubled 0, stuck 0; {self.orphans} unanswered files taken in; {self.seconds:.0f} s"
        )

    def table(self) -> str:
        """Markdown: by fault, seconds until the next answer, result and delivery: median (longest)."""
        lines = ["| fault | times | answer | result | delivery |", "|---|---|---|---|---|"]
        for name, times in sorted(self.recovery.items()):
            cells = []
            for what in ("answers", "results", "deliveries"):
                values = [one[what] for one in times]
                cells.append(f"{statistics.median(values):.1f} ({max(values):.1f})")
            lines.append(f"| {name.replace('_', ' ')} | {len(times)} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _log_of(rig: Rig) -> str:
    """The end of the daemon's log without what tells that all is well, and who is alive."""
    dull = ("event=instance.", "event=delivery.sent", "event=association.ended", "event=store.refused")
    lines = [line for line in rig.daemon.log.read_text().splitlines() if not any(word in line for word in dull)]
    alive = rig.daemon.children() if rig.daemon.process is not None else {}
    return "\n".join([*lines[-60:], f"alive: {alive}"])


def run(
    folder: Path,
    kind: str,
    *,
    rounds: int,
    faults_per_round: int,
    seed: int,
    rate: float = 40.0,
    only: Sequence[str] = (),
    told: Callable[[str], None] = print,
) -> Report:
    """Run rounds, each fault as often as the others, in an order that the seed gives; check after each round.

    Raises:
        AssertionError: Something was lost, doubled or got stuck.
    """
    chance, report, began = random.Random(seed), Report(kind, seed), time.monotonic()
    # Both ways in which a disk may be full: when it is, and when little of it is left.
    rig = Rig(folder, kind, min_free_mib=0 if kind == "sqlite" else 16, rate=rate)
    deck: list[Fault] = []
    try:
        rig.start()
        for number in range(rounds):
            rig.start_load(seed * 1000 + number)
            for _ in range(faults_per_round):
                known = [fault for fault in faults_of(rig) if not only or fault.__name__ in only]
                deck = deck or chance.sample(known, len(known))
                fault = deck.pop()
                time.sleep(chance.uniform(0.5, 1.5))
                fault(rig, chance)
                taken = rig.recovery()
                report.recovery[fault.__name__].append(taken)
                shown = ", ".join(f"{what} after {seconds:.1f} s" for what, seconds in taken.items())
                told(f"{kind} round {number + 1}: {fault.__name__}: {shown}")
            rig.stop_load()
            rig.wait_for_quiet()
            report.answered, orphans = rig.check()
            report.rounds, report.orphans = number + 1, report.orphans + orphans
            told(f"{kind} round {number + 1}: clean, {report.answered} images so far")
        assert rig.daemon.stop() == 0
    except BaseException:
        told(_log_of(rig))
        raise
    finally:
        rig.close()
    report.seconds = time.monotonic() - began
    return report
