# SPDX-License-Identifier: Apache-2.0
"""A virtual machine under a test's or a benchmark's hands: the command lines of Plures and of its peer, and a process
whose console is read with times."""
import contextlib
import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parent.parent

# The first line of guests/init.
USERSPACE = "plures: userspace"
CONSOLE = "console=ttyS0"

# A busy host takes that many times as long as is allowed to a quiet one.
PATIENCE = 3


def plures_path():
    return pathlib.Path(os.environ.get("PLURES") or TOP / "build" / "plures").absolute()


def plures(kernel, *, initrd=None, append=None, memory="512M", cpus=1, options=(), engine="soft", disks=(), forwards=None,
           agent=None):
    """The command line of a Plures machine. With debug exit, and without reboot unless `options` say --reboot. `forwards`
    gives it a card on the user network and maps ports of the host to its own; `agent` is the guest agent's socket."""
    argv = [str(plures_path()), "run", "--engine", engine, "--kernel", str(kernel), "--memory", str(memory),
            "--cpus", str(cpus), "--debug-exit"]
    if initrd is not None:
        argv += ["--initrd", str(initrd)]
    if append is not None:
        argv += ["--append", append]
    for disk in disks:
        argv += ["--disk", str(disk)]
    if forwards is not None:
        argv += ["--net", ",".join(["user", *(f"forward=tcp:{host}:{guest}" for host, guest in forwards.items())])]
    if agent is not None:
        argv += ["--guest-agent", str(agent)]
    options = list(options)
    if "--reboot" in options:
        options.remove("--reboot")
    else:
        argv.append("--no-reboot")
    return argv + options


def qemu(kernel, *, initrd=None, append=None, memory="512M", cpus=1, options=(), accel="tcg", cpu="max", disks=(),
         forwards=None, agent=None, aio="threads"):
    """The same machine on QEMU. No default devices: a network card's boot ROM would only cost QEMU time. A disk has a
    thread of its own."""
    argv = ["qemu-system-x86_64", "-accel", accel, "-M", "q35", "-cpu", cpu, "-m", str(memory), "-smp", str(cpus),
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(kernel)]
    if initrd is not None:
        argv += ["-initrd", str(initrd)]
    if append is not None:
        argv += ["-append", append]
    for i, disk in enumerate(disks):
        kind = "qcow2" if str(disk).endswith(".qcow2") else "raw"
        argv += ["-object", f"iothread,id=io{i}", "-drive", f"if=none,id=disk{i},file={disk},format={kind},cache=writeback,aio={aio}",
                 "-device", f"virtio-blk-pci,drive=disk{i},iothread=io{i}"]
    if forwards is not None:
        hosts = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in forwards.items())
        argv += ["-netdev", f"user,id=net0{hosts}", "-device", "virtio-net-pci,netdev=net0,romfile="]
    if agent is not None:
        argv += ["-chardev", f"socket,id=agent,path={agent},server=on,wait=off", "-device", "virtio-serial",
                 "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    if "--reboot" not in options:
        argv.append("-no-reboot")
    return argv


class MachineTimeout(AssertionError):
    pass


class Machine:
    """A running machine. Its console (stdout) is collected in `output`, with carriage returns and the escape sequences
    of firmware taken out; what it says on stderr is in `errors` when it has ended. Use as a context manager: what is
    still running at the end is killed."""

    def __init__(self, argv, *, user=None, cwd=None, env=None, pass_fds=()):
        self.argv = [str(a) for a in argv]
        self.raw = b""
        self.code = None
        self.arrived = []  # (time since the start, length of raw at that time)
        self._err = tempfile.TemporaryFile()
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._err,
                                        user=user, group=user, extra_groups=[] if user else None, cwd=cwd, env=env,
                                        pass_fds=pass_fds, start_new_session=True)
        if os.nice(0):
            # A session is a group to the scheduler (sched(7), autogroup), inside which our own niceness would count only.
            with contextlib.suppress(OSError):
                pathlib.Path(f"/proc/{self.process.pid}/autogroup").write_text(str(os.nice(0)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def pid(self):
        return self.process.pid

    @property
    def output(self):
        text = self.raw.decode("utf-8", "replace").replace("\r", "")
        return re.sub("\x1b(\\[[0-9;?=]*[A-Za-z]|c)", "", text)

    @property
    def errors(self):
        self._err.seek(0)
        return self._err.read().decode("utf-8", "replace")

    def send(self, data):
        os.write(self.process.stdin.fileno(), data.encode() if isinstance(data, str) else data)

    def _read(self, deadline):
        """Reads what there is; False at the end of the console."""
        left = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        if left <= 0 or not poll.poll(left * 1000):
            self._late()
        data = os.read(self.process.stdout.fileno(), 65536)
        self.raw += data
        self.arrived.append((time.monotonic() - self.started, len(self.raw)))
        return bool(data)

    def _late(self):
        spent = time.monotonic() - self.started
        self.kill()
        tail = "\n".join(self.output.splitlines()[-40:])
        raise MachineTimeout(f"no end after {spent:.0f} s of: {' '.join(self.argv)}\n{self.errors}\nits last lines:\n{tail}")

    def read_until(self, pattern, timeout=60, start=0):
        """Waits for a regular expression on the console, after its first `start` characters, and returns its match, or
        None when the machine ends before."""
        deadline = time.monotonic() + PATIENCE * timeout
        pattern = re.compile(pattern)
        while True:
            match = pattern.search(self.output, start)
            if match:
                return match
            if not self._read(deadline):
                return pattern.search(self.output, start)

    def seconds_to(self, text):
        """When a piece of the console arrived, in seconds after the process was started; None when it didn't."""
        at = self.raw.find(text.encode())
        if at < 0:
            return None
        return next(when for when, length in self.arrived if length >= at + len(text))

    def wait(self, timeout=60):
        """Reads the console to its end and returns the exit status (negative: the signal that killed it)."""
        deadline = time.monotonic() + PATIENCE * timeout
        while self._read(deadline):
            pass
        try:
            self.code = self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._late()
        return self.code

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdin.close()


class Watch(threading.Thread):
    """Looks at a Plures process until told to stop, or until it ends: the most kilobytes that it and its children had beside the
    guest's memory, and the seconds that its CPUs have been ready to run but not running."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.most, self.delayed, self.looks, self.done = pid, 0, 0, 0, threading.Event()
        self.start()

    def stop(self):
        self.done.set()
        self.join()

    def run(self):
        while not self.done.wait(0.2):
            with contextlib.suppress(OSError, TypeError, IndexError):  # it ends
                self._look()

    @staticmethod
    def _beside(pid):
        mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", pathlib.Path(f"/proc/{pid}/smaps").read_text(), flags=re.M)[1:]
        return sum(int(re.search(r"^Pss:\s+(\d+) kB", m, re.M)[1]) for m in mappings if "memfd:plures-ram" not in m)

    def _look(self):
        tasks = list(pathlib.Path(f"/proc/{self.pid}/task").iterdir())
        kb = sum(self._beside(pid) for pid in [self.pid, *(child for t in tasks for child in (t / "children").read_text().split())])
        self.most, self.looks = max(self.most, kb), self.looks + bool(kb)
        threads = [t for t in tasks if (t / "comm").read_text().startswith("vcpu")]
        self.delayed = max(self.delayed, sum(int((t / "schedstat").read_text().split()[1]) for t in threads) / 1e9)


def run(argv, timeout=60, **options):
    """Runs a machine to its end and returns it."""
    with Machine(argv, **options) as machine:
        machine.wait(timeout)
    return machine
