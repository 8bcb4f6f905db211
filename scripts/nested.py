# SPDX-License-Identifier: Apache-2.0
"""A Linux with a true KVM, on any host: QEMU's TCG emulates a CPU with AMD's virtualization, Debian's kernel on it (L1) loads
its kvm modules, and build/plures runs machines there (L2). Everything is slow, and nothing is left out."""
import pathlib
import re
import shutil
import subprocess

import guest_assets
import machine

# What L1 emulates. `max` would have AVX-512 and more for L1 to save and restore.
CPU = "EPYC,+svm,+npt,+nrip-save,+invtsc,-topoext"


# What L2 has the program load: for its kernel's compression, and for the user network.
ON_DEMAND = ("libz.", "liblzma.", "libzstd.", "liblz4.", "libslirp.")


def libraries(program):
    """The shared objects of a program and of what it loads, as paths in L1 and on the host: the loader stands at an absolute path."""
    cache = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    wanted = [name for name in re.findall(rb"lib\w+\.so\.[\d.]+", pathlib.Path(program).read_bytes()) if name.decode().startswith(ON_DEMAND)]
    loaded = [re.search(rf"\s{re.escape(name.decode())} \(libc6,x86-64.*\) => (/\S+)", cache)[1] for name in set(wanted)]
    listed = subprocess.run(["ldd", str(program), *loaded], check=True, capture_output=True, text=True).stdout
    found = {*re.findall(r"(/\S+) \(0x", listed), *loaded}
    return {path.lstrip("/"): pathlib.Path(path).resolve() for path in found}


def files(extra=None):
    """What L1 needs besides busybox: KVM's modules, the program under test, and what L2 boots."""
    program = machine.plures_path()
    return {**guest_assets.modules("kvm_amd"), "bin/plures": program, **libraries(program), "l2/vmlinuz": guest_assets.kernel(), **(extra or {})}


def argv(script, extra=None, *, cpus=1, memory="768M"):
    """The command line of L1 that runs the script."""
    initrd = guest_assets.initramfs(script, files(extra))
    return [shutil.which("qemu-system-x86_64") or "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", CPU, "-m", memory, "-smp", str(cpus),
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(guest_assets.kernel()), "-initrd", str(initrd),
            "-append", f"{machine.CONSOLE} quiet mitigations=off nowatchdog"]
