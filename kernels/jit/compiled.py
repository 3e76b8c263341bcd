"""Compiled code on disk: what one process has compiled, the next one only loads.

An entry is an object file with the name of its function. Loading one takes a millisecond and no
Numba. Entries lie in a directory whose name is a digest of all that the code depends on beside the
entry's own name: our sources, Numba, LLVM, the processor and Numba's settings. So nothing there is
ever out of date, and processes that write the same entry at once write the same thing.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from ..aot import executor

#: Told of each function that is compiled or loaded: (name, seconds, whether it was on disk).
Listener = Callable[[str, float, bool], None]

#: What reports an exception: no function of ours raises any.
_REPORTING = ("numba_gil_ensure", "numba_gil_release")

#: Settings of Numba that change the code.
_SETTINGS = (
    "CPU_FEATURES", "CPU_NAME", "DEBUGINFO", "DISABLE_INTEL_SVML", "ENABLE_AVX", "LOOP_VECTORIZE",
    "OPT", "SLP_VECTORIZE",
)  # fmt: skip

#: Name of a directory: a fingerprint.
_OURS = re.compile("[0-9a-f]{20}")

#: Functions that are given to the code in each process begin so.
_PROVIDED = "fastnn_"

#: Directories of other versions and processors that stay.
KEPT = 8

_lock = threading.RLock()
_this_thread = threading.local()
_addresses: dict[str, int] = {}
_alive: list[Any] = []
_listeners: list[Listener] = []


def _unlock_in_child() -> None:
    global _lock
    _lock = threading.RLock()


# No thread is compiling while a process is forked: the child would wait for it for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _lock.acquire(),
        after_in_parent=lambda: _lock.release(),
        after_in_child=_unlock_in_child,
    )


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Tell a function of all that is compiled or loaded meanwhile."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def home() -> Path | None:
    """Where compiled code is kept: ``FASTNN_JIT_CACHE``, or the user's directory for such things.

    None where the variable is empty, or where no such directory is known: then nothing is kept.
    """
    wanted = os.environ.get("FASTNN_JIT_CACHE")
    if wanted is not None:
        return Path(wanted) if wanted else None
    if sys.platform == "darwin":
        base = "~/Library/Caches"
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "fastnn" / "jit"
    except RuntimeError:  # a user without a home
        return None


def processor() -> tuple[str, str]:
    """Name and features that Numba compiles for: this processor's, unless its own variables
    ``NUMBA_CPU_NAME``, ``NUMBA_CPU_FEATURES`` and ``NUMBA_ENABLE_AVX`` say otherwise."""
    name, features = _host()
    chosen = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES", "" if chosen else features)
    if os.environ.get("NUMBA_ENABLE_AVX") == "0":
        features = ",".join(f for f in features.split(",") if not f.startswith("+avx"))
    return chosen or name, features


@cache
def _host() -> tuple[str, str]:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def vector_bytes() -> int:
    """Width of a vector register."""
    features = set(processor()[1].split(","))
    if {"+avx512f", "+avx512dq"} <= features:
        return 64
    return 32 if "+avx2" in features else 16


@cache
def _versions() -> tuple[str, ...]:
    return tuple(importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy"))


def source_files() -> list[Path]:
    """Our own sources that code is made of."""
    root = Path(__file__).resolve().parent.parent
    return sorted([*root.glob("*.py"), *root.glob("jit/*.py")])


@cache
def _sources() -> str:
    """Their digest, as they are on disk, and that of what they have from abi.h."""
    agreed = (
        executor.CALL, executor.STEP, executor.UPDATE_BLOCK, executor.PENALTY_BLOCK,
        executor.MOST_STATES, executor.DECAY,
    )  # fmt: skip
    digest = hashlib.sha256(repr(agreed).encode())
    for file in source_files():
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def fingerprint() -> str:
    """Digest of all that compiled code depends on beside its own name."""
    settings = [(name, os.environ.get(f"NUMBA_{name}")) for name in _SETTINGS]
    parts = [
        _sources(),
        *_versions(),
        *processor(),
        repr(settings),
        sys.version,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


class NotCompiled(Exception):
    """A function would have to be compiled."""


@contextmanager
def loading_only() -> Iterator[None]:
    """Within it, in this thread, what is not on disk raises `NotCompiled`."""
    _this_thread.loads_only = True
    try:
        yield
    finally:
        _this_thread.loads_only = False


def function(name: str, compile: Callable[[], Any]) -> int:
    """Address of the function of a name: known, loaded, or compiled to a ``numba.cfunc``.

    The name must say everything that the function depends on beside our own sources.
    """
    if name in _addresses:
        return _addresses[name]
    if getattr(_this_thread, "loads_only", False) and not _is_kept(name):
        raise NotCompiled(name)  # without waiting for what is being compiled
    with _lock:
        if name not in _addresses:
            start = time.perf_counter()
            address = _read(name)
            found = address is not None
            _addresses[name] = address if address is not None else _make(name, compile)
            for listener in _listeners:
                listener(name, time.perf_counter() - start, found)
        return _addresses[name]


def _file(name: str) -> Path | None:
    base = home()
    if base is None:
        return None
    return base / fingerprint() / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.o"


def _is_kept(name: str) -> bool:
    file = _file(name)
    return file is not None and file.exists()


def _make(name: str, compile: Callable[[], Any]) -> int:
    made = compile()
    _alive.append(made)
    file = _file(name)
    if file is not None and not _missing(made):
        # Code that cannot be kept is compiled again next time: nothing else is lost.
        with suppress(OSError):
            _write(file, made._wrapper_name, made._library._get_compiled_object())
    return made.address


def _missing(made: Any) -> list[str]:
    """Functions that the code calls and that another process, without Numba, would not have."""
    process = ctypes.CDLL(None) if os.name == "posix" else None
    declared = (f.name for f in made._library._final_module.functions if f.is_declaration)
    return [
        name
        for name in declared
        if not name.startswith(("llvm.", _PROVIDED))
        and name not in _REPORTING
        and (name.startswith("__svml") or not hasattr(process, name))
    ]


def _write(file: Path, symbol: str, code: bytes) -> None:
    if not file.parent.exists():
        _make_room(file.parent.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f"{symbol} {hashlib.sha256(code).hexdigest()}\n".encode() + code)


def write_whole(file: Path, contents: bytes) -> None:
    """Write a file whole or not at all, whoever reads or writes it meanwhile."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as to:
            to.write(contents)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def _make_room(base: Path) -> None:
    """Remove those of our directories that were longest not written to, all but a few."""
    if base.exists():
        ours = (d for d in base.iterdir() if _OURS.fullmatch(d.name) and not d.is_symlink())
        known = sorted((d for d in ours if d.is_dir()), key=lambda d: d.stat().st_mtime)
        for old in known[: max(len(known) - KEPT + 1, 0)]:
            shutil.rmtree(old, ignore_errors=True)


def _read(name: str) -> int | None:
    file = _file(name)
    try:
        head, code = file.read_bytes().split(b"\n", 1) if file is not None else (b"", b"")
        symbol, digest = head.decode().split(" ")
    except (OSError, ValueError):
        return None
    if hashlib.sha256(code).hexdigest() != digest:  # half a file, say: it is written anew
        return None
    return _load(symbol, code)


@cache
def provide_blas() -> None:
    """Give code the addresses of SciPy's ``sgemm`` and ``dgemm``, which differ between processes.

    Raises
    ------
    ImportError
        SciPy is missing.
    """
    from scipy.linalg import cython_blas

    pointer, name = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_GetName
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    for routine in ("sgemm", "dgemm"):
        capsule = cython_blas.__pyx_capi__[routine]
        llvm.add_symbol(_PROVIDED + routine, pointer(capsule, name(capsule)))


def _load(symbol: str, code: bytes) -> int:
    _prepare()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _alive.append(engine)
    return engine.get_function_address(symbol)


@cache
def _prepare() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # One name that is not found, and LLVM leaves all of them without an address, silently. It does
    # not know this process's own names before there is an engine.
    abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for name in _REPORTING:
        if not llvm.address_of_symbol(name):
            llvm.add_symbol(name, abort)
