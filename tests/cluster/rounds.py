"""Rounds in which hosts die and are cut off, and the gain of a second worker."""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from medd.store.tables import prediction
from tests.cluster.fabric import Host
from tests.cluster.rig import LEASE_S, Member, Rig


@dataclass
class Report:
    """What happened."""

    rounds: int = 0
    answered: int = 0
    seconds: float = 0.0
    #: By fault: seconds from its end to the next answer and result, each time.
    recovery: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        lines = [
            f"{self.rounds} rounds, {self.answered} images answered with success; lost 0, doubled 0, stuck 0;"
            f" {self.seconds:.0f} s",
            "",
            "| fault | times | answer | result |",
            "|---|---|---|---|",
        ]
        for name, times in sorted(self.recovery.items()):
            values = [[one[what] for one in times] for what in ("answers", "results")]
            cells = (f"{statistics.median(value):.1f} ({max(value):.1f})" for value in values)
            lines.append(f"| {name} | {len(times)} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _kill(member: Member) -> None:
    member.kill()
    time.sleep(LEASE_S / 2)
    member.start()


def _cut(host: Host, seconds: float) -> None:
    host.cut_off()
    time.sleep(seconds)
    host.reconnect()


def faults(rig: Rig) -> dict[str, Callable[[random.Random], None]]:
    """Receiver and workers die, and every host is cut off for less and for more than a lease."""

    def seconds(chance: random.Random) -> float:
        return chance.uniform(LEASE_S / 2, LEASE_S * 2)

    return {
        "receiver killed": lambda _: _kill(rig.receiver),
        "receiver cut off": lambda chance: _cut(rig.receiver.host, seconds(chance)),
        "worker killed": lambda chance: _kill(chance.choice(rig.workers)),
        "worker cut off": lambda chance: _cut(chance.choice(rig.workers).host, seconds(chance)),
        "database cut off": lambda chance: _cut(rig.base, seconds(chance)),
        "object store cut off": lambda chance: _cut(rig.store, seconds(chance)),
    }


def run(
    folder: Path,
    *,
    rounds: int,
    seed: int = 1,
    rate: float = 20.0,
    only: Sequence[str] = (),
    told: Callable[[str], None] = print,
) -> Report:
    """Run rounds of one fault each under load, each fault as often as the others, and check after each.

    Raises:
        AssertionError: Something was lost, doubled or got stuck.
    """
    chance, report, began = random.Random(seed), Report(), time.monotonic()
    rig = Rig(folder, rate=rate)
    deck: list[str] = []
    try:
        for member in (rig.receiver, *rig.workers):
            member.start()
        known = faults(rig)
        for number in range(rounds):
            deck = deck or [name for name in chance.sample(sorted(known), len(known)) if name in (only or known)]
            name = deck.pop()
            rig.start_load(seed * 1000 + number)
            rig.recovery()
            known[name](chance)
            taken = rig.recovery()
            report.recovery[name].append(taken)
            time.sleep(LEASE_S)
            rig.stop_load()
            report.answered, report.rounds = rig.check(), number + 1
            shown = ", ".join(f"{what} after {passed:.1f} s" for what, passed in taken.items())
            told(f"round {number + 1}: {name}: {shown}; clean, {report.answered} images so far")
    finally:
        rig.close()
    report.seconds = time.monotonic() - began
    return report


def speedup(folder: Path, *, images: int = 200, delay_s: float = 0.5) -> tuple[float, float]:
    """Results per second of one worker and of two, with a model so slow that no core is shared."""
    rig, rates = Rig(folder, delay_s=delay_s), []
    try:
        rig.receiver.start()
        for count in (1, 2):
            for member in rig.workers[:count]:
                if member.daemon.process is None:
                    member.start()
            before = rig.count(prediction)
            rig.send(images, seed=count)
            rig.wait_for_quiet()
            with rig.database.read() as connection:
                p = prediction.c
                page = sa.select(p.scored_at).order_by(p.id).offset(before)
                moments = list(connection.scalars(page))
            assert len(moments) == images
            # Results are committed by batches: what the first brought has taken no time of these.
            later = [moment for moment in moments if moment > min(moments)]
            rates.append(len(later) / (max(moments) - min(moments)).total_seconds())
    finally:
        rig.close()
    return rates[0], rates[1]
