"""Contenders take turns; slow peers drop out early; disturbed rounds are repeated."""

import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.in_turn import Candidate

SLACK = 1.3  # an eager peer this much behind the best one in wall and CPU time drops out
DISTURBED = 0.1  # share of the machine that other programs may use in a round
LEAST_TURN = 0.05  # seconds: shorter steps are repeated within a turn


@dataclass
class Contender:
    """A step of a process, and its measurements in each round.

    ``kind`` is ``ours``, ``eager`` (several, of which the best counts), ``compiled`` or ``plain``
    (slow, for reference, one round).
    """

    label: str
    kind: str
    process: Candidate
    step: str
    whole: bool = False
    repeat: int = 1
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    step_mib: float = math.nan

    def turn(self, number: int) -> None:
        """Run the step for a round."""
        self.rows[number] = self.process.ask(step=self.step, repeat=self.repeat, warm=True)

    def median(self, kind: str) -> float:
        """Median seconds; ``kind`` is ``wall`` or ``cpu``."""
        return statistics.median(row[kind] for row in self.rows.values())

    def ratio(self, other: "Contender", kind: str) -> float:
        """Median ratio of this time to the other's, over common rounds (or ratio of medians)."""
        common = self.rows.keys() & other.rows.keys()
        if not common:
            return self.median(kind) / other.median(kind)
        return statistics.median(self.rows[n][kind] / other.rows[n][kind] for n in common)


def contest(contenders: Sequence[Contender], *, rounds: int) -> dict[str, Any]:
    """Let all take turns; afterwards each one's ``rows`` hold its rounds.

    Eager peers that are slow in the first turn have only that turn. A round in which other
    programs used more than a tenth of the machine is not counted and is repeated, up to twice the
    number of rounds; then disturbed rounds count too. Returns the numbers of rounds of each kind.
    """
    for _ in range(3):
        meter = _Meter([one.process for one in contenders])
        for one in contenders:
            one.turn(-1)
        if meter.others() <= DISTURBED:
            break
    for one in contenders:
        one.repeat = max(1, min(50, math.ceil(LEAST_TURN / one.rows[-1]["wall"])))
    running, shares = _first_cut(contenders), {}
    for one in running:
        one.rows.clear()
    for number in range(2 * rounds):
        if number and sum(share <= DISTURBED for share in shares.values()) >= rounds:
            break
        meter = _Meter([one.process for one in running])
        for one in running:
            one.turn(number)
        shares[number] = meter.others()
        if number == 0:
            running = [one for one in running if one.kind != "plain"]
    quiet = {number for number, share in shares.items() if share <= DISTURBED}
    if len(quiet) >= min(3, rounds):
        for one in running:
            kept = {number: row for number, row in one.rows.items() if number in quiet}
            one.rows = kept or one.rows
    for one in contenders:
        if one in running or one.kind == "plain":
            one.step_mib = one.process.ask(step=one.step, peak=True)["step_mib"]
    return {"quiet": len(quiet), "rounds": len(shares), "others_share": shares}


def _first_cut(contenders: Sequence[Contender]) -> list[Contender]:
    eager = [one for one in contenders if one.kind == "eager"]
    if not eager:
        return list(contenders)
    least = {kind: min(one.median(kind) for one in eager) for kind in ("wall", "cpu")}
    whole = min((o for o in eager if o.whole), key=lambda o: o.median("wall"), default=None)

    def stays(one: Contender) -> bool:
        behind = all(one.median(kind) > SLACK * least[kind] for kind in least)
        return one.kind != "eager" or one is whole or not behind

    return [one for one in contenders if stays(one)]


def best(contenders: Sequence[Contender], kind: str) -> Contender:
    """The contender of the least median time, among those that stayed longest."""
    most = max(len(one.rows) for one in contenders)
    stayed = [one for one in contenders if 2 * len(one.rows) > most]
    return min(stayed, key=lambda one: one.median(kind))


class _Meter:
    """CPU time of other programs from its creation to :meth:`others` (Linux only, else 0)."""

    def __init__(self, processes: list[Candidate]) -> None:
        self.ids = [*{process.process.pid for process in processes}, os.getpid()]
        self.begin = self._now()

    def others(self) -> float:
        """Their share of the machine's time."""
        time.sleep(0.01)  # thread pools keep spinning for a while
        total, busy, own = (b - a for a, b in zip(self.begin, self._now(), strict=True))
        return max(0.0, busy - own) / total if total else 0.0

    def _now(self) -> tuple[int, int, int]:
        if not Path("/proc/stat").exists():
            return 0, 0, 0
        jiffies = list(
            map(int, Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:9])
        )
        idle = jiffies[3] + jiffies[4]
        own = 0
        for number in self.ids:
            fields = (
                Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            )
            own += int(fields[11]) + int(fields[12])
        return sum(jiffies), sum(jiffies) - idle, own


def table(contenders: Sequence[Contender], ours: Contender) -> list[dict[str, Any]]:
    """Print and return the times of each, and our time over each.

    ``MiB`` of JAX are the temporaries of the compiled program, because XLA's pools keep memory and
    hide a step's peak. For others it is how much a step raised the memory in use.
    """
    print(
        f"{'':46}{'wall ms':>10}{'CPU ms':>10}{'ours/it':>9}{'by CPU':>8}{'MiB':>10}{'rounds':>8}"
    )
    lines = []
    for one in contenders:
        line = {
            "label": one.label,
            "kind": one.kind,
            "wall_ms": one.median("wall") * 1e3,
            "cpu_ms": one.median("cpu") * 1e3,
            "ours_over_wall": ours.ratio(one, "wall"),
            "ours_over_cpu": ours.ratio(one, "cpu"),
            "mib": one.process.start.get(f"temporaries_mib {one.step.split()[0]}", one.step_mib),
            "rounds": len(one.rows),
        }
        lines.append(line)
        print(
            f"{one.label:46}{line['wall_ms']:10.1f}{line['cpu_ms']:10.1f}"
            f"{line['ours_over_wall']:9.3f}{line['ours_over_cpu']:8.3f}"
            f"{line['mib']:10.1f}{line['rounds']:8}"
        )
    return lines


def against(contenders: Sequence[Contender], ours: Contender) -> dict[str, dict[str, Any]]:
    """Our time over the best eager, whole-batch eager and compiled peer, by wall and CPU time."""
    groups = {
        "best eager": [one for one in contenders if one.kind == "eager"],
        "best whole-batch eager": [one for one in contenders if one.kind == "eager" and one.whole],
        "best compiled": [one for one in contenders if one.kind == "compiled"],
    }
    found = {}
    for name, group in groups.items():
        if not group:
            continue
        by_wall, by_cpu = best(group, "wall"), best(group, "cpu")
        found[name] = {
            "wall": ours.ratio(by_wall, "wall"),
            "wall_label": by_wall.label,
            "cpu": ours.ratio(by_cpu, "cpu"),
            "cpu_label": by_cpu.label,
        }
        print(
            f"  {ours.label} / {name}: wall {found[name]['wall']:.3f} ({by_wall.label}), "
            f"CPU {found[name]['cpu']:.3f} ({by_cpu.label})"
        )
    return found
