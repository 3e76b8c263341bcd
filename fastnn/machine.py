"""What this machine is and can do: the yardsticks that speeds are given as shares of."""

from __future__ import annotations

import importlib.util
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ._version import __version__
from .compiler import available_threads
from .kernels import aot
from .kernels.aot import executor


def _together(threads: int, work: Callable[[int], float]) -> float:
    """Sum of what ``work(i)`` returns when all threads run it at once."""
    results = [0.0] * threads
    barrier = threading.Barrier(threads)

    def run(i: int) -> None:
        barrier.wait()
        results[i] = work(i)

    members = [threading.Thread(target=run, args=(i,)) for i in range(threads)]
    for member in members:
        member.start()
    for member in members:
        member.join()
    return sum(results)


def _fma(dtype: str, threads: int) -> float:
    core = aot.core(dtype, aot.choose_isa())
    core.measure_fma(1_000_000)  # wide registers raise their clock only after a while
    return max(_together(threads, lambda i: core.measure_fma(2_000_000)) for _ in range(3)) / 1e9


def _bandwidth(threads: int) -> float:
    size = 1 << 23  # doubles: 64 MiB, beyond the caches of a core
    arrays = [(np.ones(size), np.ones(size)) for _ in range(threads)]

    def copy(i: int) -> float:
        to, source = arrays[i]
        start = time.perf_counter()
        for _ in range(3):
            np.copyto(to, source)
        return 3 * 2 * to.nbytes / (time.perf_counter() - start)

    return max(_together(threads, copy) for _ in range(3)) / 1e9


@dataclass(frozen=True)
class Machine:
    """Measured limits.

    Attributes
    ----------
    fma_gflops
        (number type, threads) -> GFLOP/s of fused multiply-adds in registers.
    copy_gbytes
        threads -> GB/s of a copy between arrays in memory, reads plus writes.
    """

    fma_gflops: dict[tuple[str, int], float]
    copy_gbytes: dict[int, float]

    def fma(self, dtype: str, threads: int) -> float:
        """Peak of the arithmetic units with this many threads, GFLOP/s."""
        if (dtype, threads) not in self.fma_gflops:
            self.fma_gflops[dtype, threads] = _fma(dtype, threads)
        return self.fma_gflops[dtype, threads]

    def bandwidth(self, threads: int) -> float:
        """Peak of memory with this many threads, GB/s."""
        if threads not in self.copy_gbytes:
            self.copy_gbytes[threads] = _bandwidth(threads)
        return self.copy_gbytes[threads]


def meeting(threads: int) -> float:
    """Seconds that threads take to meet once, the least of a few tries.

    Cache lines are handed on meanwhile, so it tells how far from each other the processors are that
    they run on now. On Zen 4: 20 nanoseconds for two halves of one core, 50 to 100 for cores that
    share a cache, 350 for others. A virtual machine may be moved while it runs.

    Raises
    ------
    OSError
        The threads could not be started.
    """
    return min(executor.meeting_seconds(threads, 2000) for _ in range(3))


@cache
def measure() -> Machine:
    """The machine's limits; each is measured when it is first asked for."""
    return Machine({}, {})


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


#: Features that matter to number crunching, in the order in which processors got them.
_FEATURES = (
    "sse2", "ssse3", "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw",
    "avx512cd", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "sve", "bf16", "i8mm", "sve2", "sme",
)  # fmt: skip


def cpu_features() -> list[str]:
    """Vector features of the processor by the names that Linux has for them; empty elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):  # x86 and Arm
                    found = set(value.split())
                    return [feature for feature in _FEATURES if feature in found]
    except OSError:
        pass
    return []


def blas_name() -> str:
    """The BLAS that NumPy uses (only the NumPy backend does)."""
    config = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})  # type: ignore[union-attr]
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def optional_packages() -> dict[str, str | None]:
    """Optional packages and their versions, None where missing. Nothing is imported."""
    found: dict[str, str | None] = {}
    for name in (
        "numba", "sympy", "scipy", "threadpoolctl", "pooch", "matplotlib", "scikit-learn", "torch",
        "jax",
    ):  # fmt: skip
        module = {"scikit-learn": "sklearn"}.get(name, name)
        try:
            found[name] = version(name) if importlib.util.find_spec(module) else None
        except PackageNotFoundError:
            found[name] = None
    return found


def info() -> dict[str, str]:
    """What ``fastnn info`` prints."""
    executor = aot.executor
    threads = (
        f"{available_threads()} available"
        if executor.threaded
        else "1: this build is single-threaded, no POSIX threads were found when it was compiled"
    )
    packages = ", ".join(f"{n} {v or 'missing'}" for n, v in optional_packages().items())
    return {
        "fastnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu": cpu_name(),
        "features": " ".join(cpu_features()) or "unknown on this system",
        "isa": f"{aot.choose_isa()} (this processor runs {', '.join(aot.AVAILABLE)})",
        "threads": threads,
        "blas": f"{blas_name()} (NumPy's; the compiled kernels use none)",
        "optional": packages,
    }
