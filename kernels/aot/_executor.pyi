from typing import Any

import numpy as np

CALL: np.dtype
STEP: np.dtype
SUM: np.dtype
VIEW: np.dtype
MOVE: np.dtype
UPDATE_BLOCK: int
PENALTY_BLOCK: int
MOST_STATES: int
DECAY: int
FINISHED: int
OUT_OF_TIME: int
NOT_FINITE: int
ISA_LEVELS: tuple[str, ...]
cpu_isa: str
threaded: bool
most_threads: int
MOST_DIMENSIONS: int

def address_of(array: np.ndarray) -> int: ...
def run(
    full: np.ndarray,
    partial: np.ndarray,
    steps: np.ndarray,
    sums: np.ndarray,
    totals: np.ndarray,
    *,
    compute: int,
    split: bool,
    rows: int,
    batch: int,
    first: int,
    last: int,
    updates: int = ...,
    epochs: int = ...,
    seed: int = ...,
    order: np.ndarray | None = ...,
    keys: np.ndarray | None = ...,
    order_epoch: np.ndarray | None = ...,
    seconds: float = ...,
    times: np.ndarray | None = ...,
    update: bool = ...,
    progress: np.ndarray | None = ...,
    views: tuple[np.ndarray, np.ndarray] | None = ...,
    moves: np.ndarray | None = ...,
    workers: int = ...,
    lasted: np.ndarray | None = ...,
) -> tuple[int, int]: ...
def lowest_of_worker(threads: int, workers: int) -> list[int]: ...
def meeting_seconds(threads: int, n: int) -> float: ...
def shuffled(seed: int, epoch: int, n: int) -> np.ndarray: ...
def all_within(array: np.ndarray, limit: float, threads: int = ...) -> bool: ...
def put_aside(source: np.ndarray, target: np.ndarray, threads: int = ...) -> None: ...

class Direct:
    def __init__(
        self,
        table: np.ndarray,
        step: np.ndarray,
        source: tuple[list[tuple[int, int]], tuple[int, ...], bytes],
        target: tuple[list[tuple[int, int]], tuple[int, ...], bytes],
        releases: bool,
        lock: Any,
        refuse: Any,
        keep: Any,
    ) -> None: ...
    def __call__(self, x: Any, out: Any) -> Any: ...

LOOKS: int

def seconds_of_a_look() -> float: ...
def call_kernel(call: Any, thread: int = ..., threads: int = ...) -> None: ...
def time_kernel(call: Any, seconds: float) -> float: ...
