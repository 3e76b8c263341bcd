"""A page in HTML with what benchmarks measured: tables and plots, all in one file.

    python benchmarks/page.py train.json gemm.json --html page.html

A result says with ``key_names`` what the parts of its rows' keys are. Where one of them is ``peer``
the page shows how long each takes relative to fastnn; where rows know their FLOPs, time against
work; and where they also know their bytes, the roofline.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.benchmarks import report

#: Seconds of one of a unit of time.
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "us/step": 1e-6, "ns/number": 1e-9}
#: What others are compared with.
OURS = "fastnn"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0; }
th, td { padding: 0.15em 0.8em; border-bottom: 1px solid #ddd; text-align: right; }
th.key, td.key { text-align: left; }
figure { margin: 1.5em 0; }
svg { max-width: 100%; height: auto; }
.mark { color: #666; white-space: pre-wrap; font-size: 13px; }
"""


def write(file: str | Path, results: Sequence[dict[str, Any]]) -> None:
    """Write the page.

    Raises
    ------
    ImportError
        Matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("--html needs Matplotlib: pip install 'fastnn[plots]'") from None
    parts = [part for result in results for part in _sections(result)]
    title = "fastnn: " + ", ".join(result["benchmark"] for result in results)
    text = (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    Path(file).write_text(text)


def _sections(result: dict[str, Any]) -> Iterator[str]:
    yield f"<h2>{html.escape(result['benchmark'])}</h2>"
    yield f"<p class='mark'>{html.escape(report.describe(result['fingerprint']))}</p>"
    for caption, draw in _plots(result):
        yield f"<figure>{_svg(draw)}<figcaption>{html.escape(caption)}</figcaption></figure>"
    yield _table(result)
    missing = result.get("without_numbers", [])
    for row in missing:
        key = " ".join(map(str, row["key"]))
        yield f"<p>{html.escape(key)}: {html.escape(str(row.get('reason', '')))}</p>"


def _table(result: dict[str, Any]) -> str:
    rows = result["rows"]
    names = _names(result)
    header = [f"<th class='key'>{html.escape(name)}</th>" for name in names]
    header += ["<th>median</th>", "<th>unit</th>", "<th>spread</th>", "<th>rounds</th>"]
    lines = []
    for row in rows:
        cells = [f"<td class='key'>{html.escape(str(part))}</td>" for part in row["key"]]
        middle = report.number(report.quartiles(row["samples"])[1])
        values = [middle, row["unit"], report.spread(row["samples"]), str(len(row["samples"]))]
        cells += [f"<td>{html.escape(value)}</td>" for value in values]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{''.join(header)}</tr>\n" + "\n".join(lines) + "</table>"


def _names(result: dict[str, Any]) -> list[str]:
    given = result.get("key_names")
    if given is not None:
        return list(given)
    return [""] * max((len(row["key"]) for row in result["rows"]), default=0)


# ------------------------------------------------------------------ plots


def _plots(result: dict[str, Any]) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Captions, and functions that draw on Matplotlib's axes."""
    best = _best(result)
    peers = list(dict.fromkeys(peer for found in best.values() for peer in found))
    if len(peers) > 1 and any(OURS in found for found in best.values()):
        yield (
            f"Relative to {OURS}, each at its best number of threads: less is better.",
            lambda axes: _draw_ratios(axes, best, peers),
        )
    for sweep, sizes in _sweeps(best).items() if _are_times(best) else ():
        yield (
            f"Time against {sweep}, both logarithmic.",
            partial(_draw_sweep, name=sweep, sizes=sizes, peers=peers),
        )
    works = [f for found in best.values() for f in found.values() if "flops" in f]
    if works and _are_times(best):
        if len({row["flops"] for row in works}) > 2:
            yield (
                "Time against work, both logarithmic.",
                lambda axes: _draw_times(axes, best, peers),
            )
        if all("bytes" in row for row in works):
            yield (
                "Roofline: FLOPs a second against FLOPs for each byte of the operands; the lines "
                "are the measured rate of fused multiply-adds and of copies in memory.",
                lambda axes: _draw_roofline(axes, best, peers, result),
            )


def _best(result: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """What is compared -> peer -> its row, of several numbers of threads the best one."""
    names = _names(result)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    if "peer" not in names:
        return found
    at = names.index("peer")
    for row in result["rows"]:
        rest = [
            str(part) for name, part in zip(names, row["key"], strict=True)
            if name not in ("peer", "threads")
        ]  # fmt: skip
        mine = found.setdefault(" ".join(rest), {})
        old = mine.get(row["key"][at])
        if old is None or _median(row) < _median(old):
            mine[row["key"][at]] = row
    return found


def _sweeps(best: dict[str, Any]) -> dict[str, dict[float, dict[str, Any]]]:
    """What is called ``width-8``, ``width-16`` and so on: the peers' rows by name and number."""
    found: dict[str, dict[float, dict[str, Any]]] = {}
    for thing, rows in best.items():
        name, _, size = thing.partition("-")
        if size.isdigit():
            found.setdefault(name, {})[float(size)] = rows
    return {name: sizes for name, sizes in found.items() if len(sizes) > 2}


def _draw_sweep(axes: Any, name: str, sizes: dict[float, Any], peers: list[str]) -> None:
    for peer in peers:
        points = [(size, rows[peer]) for size, rows in sizes.items() if peer in rows]
        micros = [1e6 * _median(row) * SECONDS[row["unit"]] for _, row in points]
        axes.loglog([size for size, _ in points], micros, "o-", markersize=3, label=peer)
    axes.set_xlabel(name)
    axes.set_ylabel("microseconds a step")
    axes.grid(True, which="major", linewidth=0.3)


def _are_times(best: dict[str, Any]) -> bool:
    return all(row["unit"] in SECONDS for found in best.values() for row in found.values())


def _median(row: dict[str, Any]) -> float:
    return report.quartiles(row["samples"])[1]


def _draw_ratios(axes: Any, best: dict[str, Any], peers: list[str]) -> None:
    things = [thing for thing, found in best.items() if OURS in found]
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        places = [k for k, thing in enumerate(things) if peer in best[thing]]
        values = [_median(best[things[k]][peer]) / _median(best[things[k]][OURS]) for k in places]
        at = [k + (i - (len(peers) - 1) / 2) * height for k in places]
        axes.barh(at, [value - 1 for value in values], height, left=1, label=peer)
        for y, value in zip(at, values, strict=True):
            axes.annotate(f"{value:.2g}", (value, y), (3, 0), textcoords="offset points",
                          va="center", fontsize=6)  # fmt: skip
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(things)), things)
    axes.invert_yaxis()
    axes.set_xlabel(f"relative to {OURS}")
    axes.figure.set_figheight(max(3.0, 0.17 * len(things) * len(peers) + 1))


def _points(best: dict[str, Any], peer: str) -> np.ndarray:
    """FLOPs, bytes and seconds of a peer's rows, by FLOPs."""
    rows = [found[peer] for found in best.values() if peer in found]
    points = [(r["flops"], r.get("bytes", 0), _median(r) * SECONDS[r["unit"]]) for r in rows]
    return np.array(sorted(points), float).reshape(-1, 3).T


def _draw_times(axes: Any, best: dict[str, Any], peers: list[str]) -> None:
    for peer in peers:
        flops, _, seconds = _points(best, peer)
        axes.loglog(flops, 1e6 * seconds, "o-", markersize=3, linewidth=1, label=peer)
    axes.set_xlabel("FLOPs")
    axes.set_ylabel("microseconds")
    axes.grid(True, which="major", linewidth=0.3)


def _draw_roofline(
    axes: Any, best: dict[str, Any], peers: list[str], result: dict[str, Any]
) -> None:
    for peer in peers:
        flops, size, seconds = _points(best, peer)
        axes.loglog(flops / size, flops / seconds / 1e9, "o", markersize=4, label=peer)
    low, high = axes.get_xlim()
    for threads, peak in result.get("fma_gflops", {}).items():
        axes.hlines(peak, low, high, "black", linewidth=0.8)
        axes.annotate(f"{peak:.0f} GFLOP/s, {threads} thr", (high, peak), ha="right", va="bottom",
                      fontsize=7)  # fmt: skip
    if bandwidth := result.get("memory_gbytes"):
        line = np.array([low, high])
        axes.loglog(line, line * bandwidth, "k--", linewidth=0.8)
    axes.set_xlabel("FLOPs for each byte of the operands")
    axes.set_ylabel("GFLOP/s")
    axes.grid(True, which="major", linewidth=0.3)


def _svg(draw: Callable[[Any], None]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.legend(fontsize=7)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    return drawing[drawing.index("<svg") :]


def run(argv: Sequence[str] | None = None) -> int:
    """The page of several JSON files as a command; 2 when one cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", metavar="JSON", help="what benchmarks wrote")
    parser.add_argument("--html", required=True, metavar="FILE", help="where to write the page")
    options = parser.parse_args(argv)
    try:
        results = [json.loads(Path(file).read_text()) for file in options.results]
        write(options.html, results)
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"page: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run())
