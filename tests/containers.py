# SPDX-License-Identifier: Apache-2.0
"""Bundles from busybox, and plures-oci to run them. A runtime keeps its state in a folder of its own; when a test is over,
whatever it left is removed, and what a container should not have left behind is an error."""
import copy
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import uuid

TOP = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("PLURES_OCI", TOP / "build/plures-oci"))
APPLETS = ["sh", "true", "false", "cat", "echo", "id", "ls", "mount", "sleep", "touch", "hostname", "ps", "stat", "grep", "dd", "kill",
           "readlink", "env", "pwd", "test", "mkdir", "ip", "head", "wc", "seq", "chmod", "rm", "ln", "tty", "stty", "trap", "mknod", "tr",
           "nproc", "ulimit", "top", "sort", "tail", "find", "umount", "httpd", "wget", "date", "od", "sed", "nice", "setsid"]


def usable():
    """Why containers can't be tested here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("busybox"):
        return "busybox is not installed"
    if b"statically" not in subprocess.run(["file", "-L", shutil.which("busybox")], capture_output=True).stdout and \
            subprocess.run(["ldd", shutil.which("busybox")], capture_output=True).returncode == 0:
        return "busybox is not static"
    return None


def make_rootfs(path):
    path = pathlib.Path(path)
    (path / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), path / "bin/busybox")
    for name in APPLETS:
        (path / "bin" / name).symlink_to("busybox")
    for name in ("proc", "sys", "dev", "tmp", "etc", "root"):
        (path / name).mkdir()
    (path / "tmp").chmod(0o1777)
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    return path


def mount(destination, kind, source=None, *options):
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}


CAPS = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
CONFIG = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
        "env": ["PATH=/bin", "TERM=xterm"],
        "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}], "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "inside",
    "mounts": [
        mount("/proc", "proc"),
        mount("/dev", "tmpfs", None, "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", None, "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", None, "nosuid", "noexec", "nodev"),
        mount("/sys", "sysfs", None, "nosuid", "noexec", "nodev", "ro"),
        mount("/sys/fs/cgroup", "cgroup", None, "nosuid", "noexec", "nodev", "relatime", "ro"),
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/timer_list"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
    },
}


def config(*args, **changes):
    """The usual configuration with other arguments; changes name a field by its path: process__cwd="/tmp"."""
    c = copy.deepcopy(CONFIG)
    if args:
        c["process"]["args"] = list(args)
    for name, value in changes.items():
        at = c
        *path, last = name.split("__")
        for word in path:
            at = at.setdefault(word, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = value
    return c


def shell(script, **changes):
    return config("/bin/sh", "-c", script, **changes)


def cgroup_folders(tag):
    """Those whose path has a runtime's tag in it: other tests may run at the same time."""
    return {pathlib.Path(path) for path, _, _ in os.walk("/sys/fs/cgroup") if tag in path}


def gone(pid):
    """Whether a process has ended; whose child it is now may not have noticed yet."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Runtime:
    def __init__(self, folder=None):
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="plures-oci-"))
        self.folder.chmod(0o755)
        self.root = self.folder / "state"
        self.rootfs = make_rootfs(self.folder / "rootfs")
        self.program = PROGRAM
        self.tag = uuid.uuid4().hex[:8]
        self.before = self.mounts()
        self.children = []

    @staticmethod
    def mounts():
        return sorted(line.split(" ", 5)[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines())

    def argv(self, *args):
        return [str(self.program), "--root", str(self.root), *map(str, args)]

    def call(self, *args, check=False, timeout=60, **kwargs):
        r = subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=timeout, **kwargs)
        if check:
            assert r.returncode == 0, f"{args}: {r.returncode}: {r.stdout}{r.stderr}"
        return r

    def bundle(self, configuration, rootfs=None):
        path = self.folder / f"bundle-{uuid.uuid4().hex[:8]}"
        path.mkdir()
        (path / "rootfs").symlink_to(rootfs or self.rootfs)
        (path / "config.json").write_text(configuration if isinstance(configuration, str) else json.dumps(configuration))
        return path

    def name(self):
        return f"t{self.tag}-{uuid.uuid4().hex[:6]}"

    def cgroup(self, path):
        """A cgroup path of this test's own."""
        return f"/oci-test-{self.tag}/{path}"

    def run(self, configuration, *options, name=None, **kwargs):
        return self.call("run", "-b", self.bundle(configuration), *options, name or self.name(), **kwargs)

    def output(self, configuration, *options):
        r = self.run(configuration, *options)
        assert r.returncode == 0, r.stdout + r.stderr
        return r.stdout

    def create(self, configuration, *options, name=None, out=subprocess.DEVNULL, **kwargs):
        """create with standard output in a file, since a pipe would be waited for."""
        name = name or self.name()
        with open(self.folder / f"{name}.out", "wb") as file:
            r = subprocess.run(self.argv("create", "-b", self.bundle(configuration), *options, name), stdin=subprocess.DEVNULL, stdout=file,
                               stderr=file, timeout=60, **kwargs)
        assert r.returncode == 0, self.log(name)
        return name

    def log(self, name):
        return (self.folder / f"{name}.out").read_text()

    def state(self, name):
        return json.loads(self.call("state", name, check=True).stdout)

    def status(self, name):
        return self.state(name)["status"]

    def wait(self, name, status="stopped", seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.status(name) == status:
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} is {self.status(name)} and not {status} after {seconds} s: {self.log(name)}")

    def close(self):
        """Removes what is left; says what a container should not have left."""
        if self.root.exists():
            for entry in sorted(self.root.iterdir()):
                self.call("delete", "--force", entry.name)
        left = [p for p in self.root.iterdir()] if self.root.exists() else []
        cgroups, mounts = cgroup_folders(self.tag), [m for m in self.mounts() if m not in self.before and str(self.folder) in m]
        for m in reversed(mounts):
            subprocess.run(["umount", "-l", m], capture_output=True)
        for p in sorted(cgroups, reverse=True):
            try:
                p.rmdir()
            except OSError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left and not mounts and not cgroups, f"left behind: {left} {mounts} {cgroups}"
