#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles what runs in test machines: the tiny guests (guests/tiny), the program suite (guests/suite), what user mode can
do (guests/ring3), the stress program (guests/stress) and the programs whose speed is measured (bench/programs).

    build.py               compiles everything, prints the paths
    build.py hello ...     only these tiny guests

Not part of the Meson build: these are programs for another machine, with flags of their own, and a test that needs one
compiles it when it is older than its sources."""
import pathlib
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "scripts"))
import guest_assets  # noqa: E402

HERE = TOP / "guests"
OUT = guest_assets.CACHE / "guest" / "build"
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter"]
FREESTANDING = ["-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector", "-fcf-protection=none",
                "-fno-asynchronous-unwind-tables", f"-I{HERE}/lib", f"-Wl,-T,{HERE}/lib/guest.ld", "-Wl,--build-id=none",
                "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments", "-Wl,-z,max-page-size=4096"]


class BuildError(Exception):
    pass


def compile_to(output, flags, sources, depends=(), libraries=()):
    """Runs the compiler when the output is older than a source or than this script."""
    output = OUT / output
    newest = max(p.stat().st_mtime for p in [*sources, *depends, pathlib.Path(__file__)])
    if output.exists() and output.stat().st_mtime > newest:
        return output
    with guest_assets.locked(f"build-{output.name}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f".{output.name}.partial")
        r = subprocess.run(["gcc", "-g0", *WARNINGS, *flags, "-o", str(partial), *map(str, sources), *libraries],
                           capture_output=True, text=True)
        if r.returncode:
            raise BuildError(f"{output.name} does not compile:\n{r.stderr}")
        if r.stderr:
            print(r.stderr, file=sys.stderr)
        partial.rename(output)
    return output


def tiny_names():
    return sorted(p.stem for p in (HERE / "tiny").glob("*.[cS]"))


def tiny(name):
    """The path of a tiny guest's ELF file: 64-bit with a PVH note from C, 32-bit with a multiboot header from assembly."""
    lib = sorted((HERE / "lib").glob("*"))
    assembly = HERE / "tiny" / f"{name}.S"
    if assembly.exists():
        return compile_to(f"tiny/{name}", ["-m32", *FREESTANDING], [assembly], lib)
    return compile_to(f"tiny/{name}", ["-std=gnu17", "-O1", "-mgeneral-regs-only", "-mno-red-zone", *FREESTANDING],
                      [HERE / "tiny" / f"{name}.c", HERE / "lib" / "guest.c", HERE / "lib" / "start.S", HERE / "lib" / "ap.S"], lib)


def suite(bits=64):
    """The program suite as one static executable; None where 32-bit programs can't be compiled."""
    sources = sorted((HERE / "suite").glob("*.c"))
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-pthread", "-fno-strict-aliasing", "-ffp-contract=off", "-mno-red-zone"]
    if bits == 32:
        flags += ["-m32", "-msse2"]
        if subprocess.run(["gcc", "-m32", "-static", "-x", "c", "-", "-o", "/dev/null"], input="int main(void){return 0;}",
                          capture_output=True, text=True).returncode:
            return None
    return compile_to(f"suite{bits}", flags, sources, sorted((HERE / "suite").glob("*.h")), ["-lm"]) if sources else None


def tool(name):
    """The path of a program of guests/tools, which tests put into an initramfs: static."""
    return compile_to(f"tools/{name}", ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static"], [HERE / "tools" / f"{name}.c"])


def stress():
    """The program of guests/stress."""
    folder = HERE / "stress"
    return compile_to(TOP / "build" / "stress", ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-pthread", "-Wl,--no-warnings"],
                      sorted(folder.glob("*.c")), sorted(folder.glob("*.h")), ["-ltcc", "-lm"])


def ring3():
    """The program of guests/ring3, with the suite's beginning. Functions have pages of their own: a page with CPUID is never run directly."""
    folder, suite_folder = HERE / "ring3", HERE / "suite"
    return compile_to("ring3", ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-no-pie", "-fno-pie", "-pthread", "-mno-red-zone", "-fno-strict-aliasing",
                                "-falign-functions=4096", "-fcf-protection=none", f"-I{suite_folder}"],
                      [suite_folder / "suite.c", *sorted(folder.glob("*.c"))], [suite_folder / "suite.h"])


def speed():
    """Paths of the programs that ./dev bench speed measures, by their names in the guest. Kept with the build: two trees
    that share a cache may measure different programs."""
    sources, out = TOP / "bench" / "programs", TOP / "build" / "bench"
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-Wl,--no-warnings"]
    libraries = ["sqlite3", "lua5.4", "tcc", "crypto", "z", "zstd", "lzma", "m"]
    child = sources / "child.c"
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "busybox").exists():
        shutil.copy(guest_assets.busybox(), out / "busybox")
    return {"speed": compile_to(out / "speed", [*flags, "-pthread"], [p for p in sorted(sources.glob("*.c")) if p != child],
                                sorted(sources.glob("*.h")), [f"-l{library}" for library in libraries]),
            "child": compile_to(out / "child", flags, [child]), "busybox": out / "busybox"}


def main():
    try:
        for name in sys.argv[1:] or tiny_names():
            print(tiny(name))
        if not sys.argv[1:]:
            print(suite(64), suite(32), ring3(), stress(), speed()["speed"], sep="\n")
    except BuildError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
