"""Build of the compiled kernels. Everything else is declared in pyproject.toml.

The same Cython core is compiled once per instruction set and number type, each with its own flags;
the one to use is chosen at import. Without POSIX threads the executor is built single-threaded.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
AOT = ROOT / "kernels" / "aot"

# The order of evaluation stays as written and NaN stays NaN: no -ffast-math. Contraction to fused
# multiply-adds is allowed, and errno and trapping checks would keep loops from vectorising.
OPTIMISE = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
LEVELS = {
    "baseline": [],
    # Where prefetchw is missing it does nothing.
    "avx2": ["-mavx2", "-mfma", "-mprfchw"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mprfchw"),
        "-mprefer-vector-width=512",
    ],
}
TYPES = {
    "f32": [("FASTNN_REAL", "float")],
    "f64": [("FASTNN_REAL", "double"), ("FASTNN_DOUBLE", "1")],
}


def has_threads(compiler: list[str]) -> bool:
    """Whether a program with POSIX threads compiles and links; FASTNN_NO_THREADS=1 says no."""
    if os.environ.get("FASTNN_NO_THREADS") == "1":
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(
            "#include <pthread.h>\nstatic void *f(void *x) { return x; }\n"
            "int main(void) { pthread_t t; return pthread_create(&t, 0, f, 0); }\n"
        )
        command = [*compiler, str(source), "-pthread", "-o", str(Path(folder, "probe"))]
        return subprocess.run(command, capture_output=True).returncode == 0


class Build(build_ext):
    """Adds the thread flags once the compiler is known, and builds on every core."""

    def build_extensions(self) -> None:
        self.parallel = self.parallel or os.cpu_count()
        threads = has_threads(list(getattr(self.compiler, "compiler", ["cc"])))
        for extension in self.extensions:
            if extension.name.endswith("_executor"):
                extension.define_macros.append(("FASTNN_THREADS", str(int(threads))))
                if threads:
                    extension.extra_compile_args.append("-pthread")
                    extension.extra_link_args.append("-pthread")
        super().build_extensions()


def extensions() -> list[Extension]:
    """One executor, and one core per level and number type that this machine's family has."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    headers = [str(p.relative_to(ROOT)) for p in [*AOT.glob("*.h"), *AOT.glob("*.pxi")]]
    found = [
        Extension(
            "fastnn.kernels.aot._executor",
            ["kernels/aot/_executor.pyx"],
            extra_compile_args=OPTIMISE,
            depends=headers,
        )
    ]
    for level, flags in LEVELS.items():
        if level != "baseline" and not x86:
            continue
        for suffix, macros in TYPES.items():
            found.append(
                Extension(
                    f"fastnn.kernels.aot._{level}_{suffix}",
                    [f"kernels/aot/_{level}_{suffix}.pyx"],
                    define_macros=[*macros],
                    extra_compile_args=[*OPTIMISE, *flags],
                    depends=headers,
                )
            )
    for extension in found:
        extension.include_dirs = ["kernels/aot"]
    return found


sys.path.insert(0, str(AOT))
import translate  # noqa: E402  (the build's own module, beside the sources it writes)

if __name__ == "__main__":  # processes that Cython starts may read this file too
    translate.write()
    modules = extensions()

    setup(
        ext_modules=cythonize(
            modules,
            include_path=["kernels/aot"],
            nthreads=min(os.cpu_count() or 1, len(modules)),
            compiler_directives={
                "language_level": 3,
                "boundscheck": False,
                "wraparound": False,
                "cdivision": True,
                "initializedcheck": False,
            },
        ),
        cmdclass={"build_ext": Build},
    )
