# SPDX-License-Identifier: Apache-2.0
"""A machine that boots a debian_image.Image, under a test's or a benchmark's hands: root's shell on its console."""
import socket


class Guest:
    """A Debian machine and its console."""

    def __init__(self, vm, image):
        self.vm, self.image, self.asked = vm, image, 0

    def login(self, timeout=90):
        """From a booting machine to root's shell."""
        seen = len(self.vm.output)
        assert self.vm.read_until(rf"(?s)\A.{{{seen}}}.*\ndebian login: ", timeout), self.vm.output[-3000:] + self.vm.errors
        self.vm.send("root\n")
        if self.image.password is not None:
            assert self.vm.read_until(rf"(?s)\A.{{{seen}}}.*\nPassword: ", 30), self.vm.output[-3000:]
            self.vm.send(f"{self.image.password}\n")
        assert self.vm.read_until(rf"(?s)\A.{{{seen}}}.*root@debian:~# ", 60), self.vm.output[-3000:]
        # From here on the console says what commands say and nothing else.
        self.run("stty -echo; PS1=")

    def run(self, command, timeout=60):
        """A command's output and status."""
        self.asked += 1
        mark = f"end-of-{self.asked}"
        before = len(self.vm.output)
        self.vm.send(f"{command}; echo {mark[:3]}''{mark[3:]} $?\n")
        match = self.vm.read_until(rf"(?m)^{mark} (\d+)\n", timeout)
        assert match, self.vm.output[-3000:] + self.vm.errors
        return self.vm.output[before:match.start()], int(match[1])

    def ask(self, command, timeout=60):
        """The output of a command that succeeds."""
        output, status = self.run(command, timeout)
        assert status == 0, f"{command}: status {status}\n{output}"
        return output.strip()

    def power_off(self):
        self.vm.send("poweroff\n")
        assert self.vm.wait(60) == 0, self.vm.output[-3000:] + self.vm.errors


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
