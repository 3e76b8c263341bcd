"""Time training steps of networks that grow: in width, in depth, and in the rows of a batch.

    python benchmarks/scaling.py --json scaling.json --html scaling.html

Everything is as in `train_step.py`. At the end stands, for each peer, where it is faster than the
best of ours, and how much a second thread gains.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastnn.benchmarks import report, train_step
from fastnn.benchmarks.networks import SCALING, Network
from fastnn.benchmarks.train_step import Outcome, best_by_peer

#: Compared with each other, not with the peers.
OURS = ("fastnn", "fastnn-numba")


def curves(measured: dict[Network, list[Outcome]]) -> str:
    """A table for each sweep, sizes down and peers across, and where a peer is faster than ours."""
    sweeps: dict[str, dict[str, list[Outcome]]] = {}
    for network, outcomes in measured.items():
        sweep, _, size = network.name.partition("-")
        sweeps.setdefault(sweep, {})[size] = outcomes
    return "\n\n".join(_sweep(*item) for item in sweeps.items())


def _sweep(name: str, sizes: dict[str, list[Outcome]]) -> str:
    best = {size: best_by_peer(outcomes) for size, outcomes in sizes.items()}
    peers = list(dict.fromkeys(peer for found in best.values() for peer in found))
    rows = []
    faster: dict[str, list[str]] = {peer: [] for peer in peers if peer not in OURS}
    for size, found in best.items():
        cells = [report.number(found[p].median) if p in found else "-" for p in peers]
        rows.append([size, *cells, *(_gain(sizes[size], ours) for ours in OURS)])
        least = min((found[p].median for p in OURS if p in found), default=None)
        for peer in faster:
            if least is not None and peer in found and found[peer].median < least:
                faster[peer].append(f"{size} ({least / found[peer].median:.2f}x)")
    header = [name, *(f"{p}, us" for p in peers), *(f"{ours}, threads gain" for ours in OURS)]
    where = [
        f"{peer} is faster at {', '.join(at) if at else 'none'}" for peer, at in faster.items()
    ]
    return "\n\n".join([f"### {name}", report.table(header, rows), "; ".join(where)])


def _gain(outcomes: list[Outcome], peer: str) -> str:
    """How many times as long the fewest threads take as the most."""
    mine = [o for o in outcomes if o.peer == peer and o.status == "ok"]  # by threads
    return f"{mine[0].median / mine[-1].median:.2f}" if len(mine) > 1 else "-"


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a peer was wrong, failed, or was named and is missing."""
    description = "Time training steps of networks of growing width, depth and batch."
    return train_step.run(argv, "scaling", SCALING, description, curves)


if __name__ == "__main__":
    sys.exit(run())
