#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian installation on a disk image, made without root: what tests and benchmarks boot.

mmdebstrap unpacks and configures the packages, mke2fs writes them into a file: no loop device, no mount. The packages come
from where this system's own do (its apt sources). What is made is kept in .cache/guest, named by its recipe.

    debian_image.py [PACKAGE...]      makes the image, with further packages; prints where it is
"""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import guest_assets
from guest_assets import AssetError

RELEASE = "bookworm"
SIZE = "3G"
PASSWORD = "plures"  # root's, on the console; over ssh only the key that is made with the image

# What makes it an ordinary small server that boots by itself, and the little that tests ask of it.
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("zstd systemd-sysv udev dbus libpam-systemd systemd-resolved libnss-resolve openssh-server iproute2 "
            "e2fsprogs wget qemu-guest-agent").split()
# fio and iperf3 bring a hundred megabytes of libraries with them: only benchmarks get them.
BENCH_PACKAGES = ("fio", "iperf3")

# Nobody reads manuals in there, and nobody's work is lost when the host dies now.
DPKG = ("path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/locale/*",
        "path-exclude=/usr/share/info/*", "force-unsafe-io")

# Runs with the new root's path in $1, before anything has ever booted. Timers that would download in the middle of a test are off.
SETUP = r"""
set -e
echo debian >"$1/etc/hostname"
printf '127.0.0.1 localhost debian\n::1 localhost\n' >"$1/etc/hosts"
printf '/dev/vda / ext4 errors=remount-ro 0 1\n' >"$1/etc/fstab"
echo LANG=C.UTF-8 >"$1/etc/default/locale"
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$1/etc/systemd/network/80-dhcp.network"
mkdir -p -m 700 "$1/root/.ssh"
printf '%s\n' "$KEY" >"$1/root/.ssh/authorized_keys"
printf 'root:%s\n' "$PASSWORD" | chroot "$1" chpasswd
chroot "$1" systemctl --quiet enable systemd-networkd
chroot "$1" systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1"/vmlinuz* "$1"/initrd.img*
"""
# What a change of the recipe changes: the name of the image.
RECIPE = [RELEASE, SIZE, PASSWORD, PACKAGES, DPKG, SETUP]


class Image:
    """The files of an image that is there. `disk` is shared: who writes makes a copy or a qcow2 over it."""

    def __init__(self, folder):
        self.disk = folder / "disk.raw"
        self.kernel = folder / "vmlinuz"
        self.initrd = folder / "initrd.img"
        self.key = folder / "key"

    append = "root=/dev/vda ro"
    password = PASSWORD


def tool(name, package):
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not path:
        raise AssetError(f"{name} is not installed: apt-get install {package}")
    return path


def sources():
    """This system's apt sources for the release, as the lines of a sources file; empty when it has none."""
    wanted = {RELEASE, f"{RELEASE}-updates", f"{RELEASE}-security"}
    etc, found = pathlib.Path("/etc/apt"), []
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            match = re.match(r"deb\s+(\[.*?\]\s+)?\S+\s+(\S+)\s+(.*)", line)
            if match and match[2] in wanted and "main" in match[3].split():
                found.append(line)
    if found:
        return "\n".join(found) + "\n"
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):\s*(.*)$", stanza))
            suites = set(fields.get("Suites", "").split())
            if suites and suites <= wanted and "main" in fields.get("Components", "").split() and fields.get("Enabled") != "no":
                found.append(stanza.strip())
    return "\n\n".join(found) + "\n" if found else ""


def apt_options():
    """How this system's apt reaches its mirror: proxies, and whether dates are believed."""
    dump = guest_assets.run(["apt-config", "dump"])
    return re.findall(r"(?m)^(Acquire::(?:\w+::Proxy\S*|Check-\S+) \"[^\"]+\");$", dump)


def bootstrap(tar, packages, key):
    """Writes the installation into the archive `tar`."""
    mirrors = sources()
    argv = [tool("mmdebstrap", "mmdebstrap"), "--variant=minbase", "--format=tar", "--quiet", f"--include={','.join(packages)}",
            "--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Install-Recommends \"false\""]
    argv += [f"--aptopt={option}" for option in apt_options()]
    argv += [f"--dpkgopt={option}" for option in DPKG]
    # sh runs it, with the root's path as $1.
    setup = f"KEY={shlex.quote(key)}; PASSWORD={shlex.quote(PASSWORD)}; " + "; ".join(SETUP.strip().splitlines())
    argv += [f"--customize-hook={setup}", RELEASE, str(tar)] + (["-"] if mirrors else [])
    made = subprocess.run(argv, input=mirrors, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if made.returncode:
        # Its last words are about itself and the whole hook; what went wrong stands before them.
        lines = [line for line in made.stderr.splitlines() if not re.match("E: (mmdebstrap|setup) failed", line)] or ["failed"]
        raise AssetError("mmdebstrap: " + next((line for line in lines if line.startswith("E:")), lines[-1]))


def make_disk(folder, tar):
    """An ext4 file system from the archive. fakeroot remembers whose each file is for who may not chown."""
    root = folder / "root"
    disk, arguments = folder / "disk.raw", "lazy_itable_init=0,assume_storage_prezeroed=1"
    commands = f"""
        set -e
        mkdir {root}
        tar -x --numeric-owner --exclude='./dev/*' -f {tar} -C {root}
        cp {root}/boot/vmlinuz-* {folder}/vmlinuz
        cp {root}/boot/initrd.img-* {folder}/initrd.img
        {tool("mke2fs", "e2fsprogs")} -q -t ext4 -E {arguments} -d {root} {disk} {SIZE}
        chmod -R u+w {root}
        rm -r {root}"""
    guest_assets.run(([] if os.geteuid() == 0 else [tool("fakeroot", "fakeroot")]) + ["sh", "-c", commands])
    for name in ("vmlinuz", "initrd.img", "disk.raw"):
        (folder / name).chmod(0o444)


def folder_name(*extra, kernel=KERNEL):
    return f"debian-{guest_assets.named_by(RECIPE + [kernel, sorted(extra)])}"


def present():
    """Whether image() would find it made."""
    return (guest_assets.CACHE / "guest" / folder_name()).is_dir()


def image(*extra, kernel=KERNEL):
    """The installation with `extra` packages as an Image. The first call takes about a minute."""
    def make(folder):
        guest_assets.note("installing Debian into a disk image ...")
        guest_assets.run([tool("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / "key")])
        with tempfile.TemporaryDirectory(dir=folder.parent) as tmp:
            tar = pathlib.Path(tmp) / "debian.tar"
            bootstrap(tar, [kernel, *PACKAGES, *extra], (folder / "key.pub").read_text().strip())
            make_disk(folder, tar)

    made = Image(guest_assets.kept(folder_name(*extra, kernel=kernel), make, lock="debian"))
    # Two for tests and one for benchmarks, of this recipe and the last; a recipe that is gone leaves no image behind.
    guest_assets.prune(made.disk.parent.parent, "debian-*", keep=6)
    return made


def main():
    try:
        made = image(*sys.argv[1:])
    except AssetError as e:
        sys.exit(f"debian_image: {e}")
    print(f"--disk {made.disk} --kernel {made.kernel} --initrd {made.initrd} --append 'console=ttyS0 {made.append}'")


if __name__ == "__main__":
    main()
