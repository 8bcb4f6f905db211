#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What runs inside a test machine: Debian's kernels and busybox, and the initramfs archives made of them.

Everything comes from the distribution with `apt-get download`, which needs no root, and is kept in .cache/guest, so that
the second call does no work. Package lists come from the system; where it has none for a package (a fresh container,
or the 32-bit kernel of a foreign architecture), they are fetched into the cache instead.

    guest_assets.py                fetches what `./dev run` needs, prints where it is
    guest_assets.py all            fetches every kernel that the tests boot
"""
import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("PLURES_CACHE", TOP / ".cache"))
GUESTS = TOP / "guests"

# Our name of a kernel: the Debian package that depends on the current one, and its architecture.
KERNELS = {
    "cloud": ("linux-image-cloud-amd64", "amd64"),
    "generic": ("linux-image-amd64", "amd64"),
    "686": ("linux-image-686", "i386"),
    "686-pae": ("linux-image-686-pae", "i386"),
}


class AssetError(Exception):
    """One line that says what is missing and what to do."""


def note(text):
    """Says what takes time, on a terminal only."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def run(argv, cwd=None):
    try:
        return subprocess.run(argv, cwd=cwd, check=True, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
    except FileNotFoundError:
        raise AssetError(f"{argv[0]} is not installed: guest kernels come from Debian packages, "
                         f"so this needs a Debian or Ubuntu system") from None
    except subprocess.CalledProcessError as e:
        lines = [line for line in e.stderr.splitlines() if line.startswith("E:")] or e.stderr.splitlines() or ["failed"]
        raise AssetError(f"{argv[0]}: {lines[-1]}") from None


@contextlib.contextmanager
def locked(name):
    """Two test processes that miss the same file must not both make it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def tree_size(path):
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


# --- packages ------------------------------------------------------------------------------------------------------

class Apt:
    """apt-get and apt-cache for one architecture, with the system's package lists or, `private`, our own."""

    def __init__(self, arch, private):
        self.options = []
        if not private:
            return
        state = CACHE / "apt" / arch
        for sub in ("lists/partial", "archives/partial"):
            (state / sub).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        for option in (f"Dir::State::Lists={state}/lists", f"Dir::State::status={state}/status", f"Dir::Cache={state}",
                       f"APT::Architecture={arch}", f"APT::Architectures={arch}", "APT::Sandbox::User=",
                       "Acquire::Languages=none", "APT::Update::Post-Invoke-Success::="):
            self.options += ["-o", option]
        if not list((state / "lists").glob("*_Packages*")):
            note(f"fetching package lists for {arch} ...")
            try:
                self.get("update")
            except AssetError:
                # One stale suite is no reason to stop when another one has the package.
                if not list((state / "lists").glob("*_Packages*")):
                    raise

    def get(self, *args, cwd=None):
        return run(["apt-get", "-q", "-o", "APT::Sandbox::User=", *self.options, *args], cwd=cwd)

    def depends(self, package):
        return run(["apt-cache", *self.options, "depends", "--important", package])


def apt_for(package, arch):
    """An Apt that knows the package."""
    if arch == run(["dpkg", "--print-architecture"]).strip():
        system = Apt(arch, private=False)
        with contextlib.suppress(AssetError):
            system.depends(package)
            system.get("download", "--print-uris", package)
            return system
    return Apt(arch, private=True)


def unpack(apt, package, into):
    """Downloads a package and unpacks it below `into`."""
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        note(f"fetching {package} ...")
        apt.get("download", package, cwd=tmp)
        debs = list(pathlib.Path(tmp).glob("*.deb"))
        if len(debs) != 1:
            raise AssetError(f"apt-get download {package} left {len(debs)} files: run `apt-get update` and try again")
        run(["dpkg-deb", "-x", str(debs[0]), str(into)])
        return debs[0].name


def named_by(recipe):
    """A short name for what is made from a recipe: another recipe, another name."""
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def kept(name, make, lock="guest"):
    """The folder .cache/guest/NAME, made once by make(folder), whole or not at all."""
    final = CACHE / "guest" / name
    if final.is_dir():
        return final
    with locked(lock):
        if final.is_dir():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        tmp = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
        try:
            try:
                make(tmp)
            except AssetError as e:
                raise AssetError(f"can't get {name} for the guest: {e} (is the network there? "
                                 f"`apt-get update` refreshes the package lists)") from None
            tmp.chmod(0o755)
            tmp.rename(final)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return final


def kernel(name="cloud"):
    """The path of the packaged, unmodified vmlinuz of one of KERNELS."""
    meta, arch = KERNELS[name]

    def make(folder):
        apt = apt_for(meta, arch)
        depends = re.findall(r"Depends: (linux-image-[0-9]\S*)", apt.depends(meta))
        if not depends:
            raise AssetError(f"{meta} names no kernel package")
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            deb = unpack(apt, depends[0] if arch == "amd64" else f"{depends[0].split(':')[0]}:{arch}", tmp)
            images = list(pathlib.Path(tmp).glob("boot/vmlinuz-*"))
            if len(images) != 1:
                raise AssetError(f"{deb} holds {len(images)} kernels")
            shutil.copy(images[0], folder / "vmlinuz")
            (folder / "vmlinuz").chmod(0o644)
            (folder / "package").write_text(deb + "\n")

    return kept(f"kernel-{name}", make) / "vmlinuz"


def kernel_package(name="cloud"):
    """The file name of the package that kernel(name) came from."""
    return (kernel(name).parent / "package").read_text().strip()


def module_files(name="cloud"):
    """The folder with all modules of one of KERNELS, each under its file name."""
    deb = kernel_package(name)  # before the lock is taken, which it may need itself

    def make(folder):
        apt = apt_for(*KERNELS[name])
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            if unpack(apt, deb.split("_")[0], tmp) != deb:
                raise AssetError(f"{package} has a newer version than the kernel in {CACHE}: remove that folder")
            for path in pathlib.Path(tmp).glob("lib/modules/**/*.ko"):
                shutil.move(path, folder / path.name.replace("-", "_"))

    return kept(f"modules-{name}", make)


def modules(*wanted, name="cloud"):
    """A kernel's modules of these names and all that they stand on, for initramfs's `files`: guests/init loads them in
    the order of lib/modules/order before its script runs."""
    folder, order = module_files(name), []

    def take(module):
        path = folder / f"{module.replace('-', '_')}.ko"
        if path.stem in order:
            return
        if not path.exists():
            raise AssetError(f"the kernel {name} has no module {module}")
        for needed in re.search(rb"\0depends=([^\0]*)", path.read_bytes())[1].decode().split(","):
            if needed:
                take(needed)
        order.append(path.stem)

    for module in wanted:
        take(module)
    files = {f"lib/modules/{m}.ko": folder / f"{m}.ko" for m in order}
    files["lib/modules/order"] = "".join(f"{m}\n" for m in order).encode()
    return files


def busybox():
    """A static busybox."""
    def make(folder):
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            unpack(apt_for("busybox-static", "amd64"), "busybox-static", tmp)
            found = [p for p in pathlib.Path(tmp).glob("**/bin/busybox") if not p.is_symlink()]
            if not found:
                raise AssetError("busybox-static holds no busybox")
            shutil.copy(found[0], folder / "busybox")
            (folder / "busybox").chmod(0o755)

    return kept("busybox", make) / "busybox"


# --- initramfs -----------------------------------------------------------------------------------------------------

class Cpio:
    """A cpio archive in the "newc" format of Documentation/driver-api/early-userspace/buffer-format.rst. Equal input
    gives equal bytes: no times, owners or inode numbers of this machine go in."""

    def __init__(self):
        self.parts = []
        self.dirs = set()
        self.ino = 0

    def add(self, name, mode, data=b"", rdev=(0, 0)):
        name = name.strip("/")
        parent = os.path.dirname(name)
        if parent and parent not in self.dirs:
            self.directory(parent)
        self.ino += 1
        fields = (self.ino, mode, 0, 0, 2 if stat.S_ISDIR(mode) else 1, 0, len(data), 0, 0, *rdev, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        self.parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def directory(self, name):
        self.dirs.add(name.strip("/"))
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o644):
        self.add(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def chardev(self, name, major, minor):
        self.add(name, stat.S_IFCHR | 0o600, rdev=(major, minor))

    def bytes(self):
        self.add("TRAILER!!!", 0)
        data = b"".join(self.parts)
        return data + b"\0" * (-len(data) % 512)


def initramfs(script=None, files=None):
    """The path of an archive with busybox and guests/init. `script` is what init runs (without it: an interactive
    shell); `files` maps further paths in the guest to bytes or to a path on the host (executable bits are kept)."""
    box = busybox().read_bytes()
    cpio = Cpio()
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
        cpio.directory(name)
    cpio.chardev("dev/console", 5, 1)
    cpio.file("bin/busybox", box, 0o755)
    cpio.link("bin/sh", "busybox")
    if "init" not in (files or {}):
        cpio.file("init", (GUESTS / "init").read_bytes(), 0o755)
    cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    cpio.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    if script is not None:
        cpio.file("etc/script", script.encode())
    for name, what in sorted((files or {}).items()):
        if isinstance(what, bytes):
            cpio.file(name, what)
        else:
            path = pathlib.Path(what)
            cpio.file(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
    data = cpio.bytes()
    # Named by content: two tests may want different archives at once, and one that is there need not be written again.
    path = CACHE / "guest" / "initramfs" / f"{hashlib.sha256(data).hexdigest()[:16]}.cpio"
    try:
        os.utime(path)
    except OSError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(fd, "wb") as f:
            f.write(data)
        os.chmod(tmp, 0o644)
        os.rename(tmp, path)
        prune(path.parent, "*.cpio", keep=40)
    return path


def prune(folder, pattern, keep):
    """Drops the oldest of what was made: scripts and recipes change, the cache should not grow for ever. Nothing of the last
    hour, though: a machine that runs may not have opened it yet, and opens it again at each reset."""
    with contextlib.suppress(OSError):
        for old in sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime)[:-keep]:
            if old.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def main():
    wanted = sys.argv[1:] or ["cloud"]
    if wanted == ["all"]:
        wanted = list(KERNELS)
    try:
        for name in wanted:
            if name not in KERNELS:
                raise AssetError(f"no kernel is called {name!r}: it is one of {', '.join(KERNELS)}, or all")
            print(f"{name:8} {kernel(name)} ({kernel_package(name)})")
        print(f"{'shell':8} {initramfs()}")
    except AssetError as e:
        sys.exit(f"guest_assets: {e}")


if __name__ == "__main__":
    main()
