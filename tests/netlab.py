# SPDX-License-Identifier: Apache-2.0
"""A network for tests of networks: servers on the host's loopback, a name server, namespaces of the test's own.

    netlab.py names RESOLV -- COMMAND...             runs a command beside a name server on loopback
    netlab.py tap QUEUES SIZE SUMS -- COMMAND...     runs a command beside an interface tap0 and a server behind it

both in namespaces of their own."""
import contextlib
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time

NAME, ADDRESS = "peer.test", "10.11.12.13"
TAP = "192.168.77.1"

# What a guest's script begins with: eth0 by DHCP.
DHCP = r"""
cat >/tmp/dhcp <<'X'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/24 dev $interface; ip route add default via $router; echo "nameserver $dns" >/etc/resolv.conf
echo "@lease"; echo "$ip $router $dns"
X
chmod +x /tmp/dhcp
ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -s /tmp/dhcp -n -q 2>/dev/null
"""


def bulk(size):
    return hashlib.sha256(b"bulk").digest() * (size // 32)


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server(threading.Thread):
    """A TCP server on loopback that sends `data` to each client and then, with `take`, reads until the client has no more.
    What clients sent is in `sums` or goes to `note`, by MD5, before the connection is closed."""

    def __init__(self, data=b"", take=False, address="127.0.0.1", port=0, note=None):
        super().__init__(daemon=True)
        self.data, self.take, self.sums = data, take, []
        self.note = note or self.sums.append
        self.socket = socket.create_server((address, port))
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client, contextlib.suppress(OSError):
            client.sendall(self.data)
            if self.take:
                got = hashlib.md5()
                while piece := client.recv(1 << 16):
                    got.update(piece)
                self.note(got.hexdigest())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def answer(query):
    """A name server's answer: one name has an address, no other exists."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = struct.unpack(">H", query[at + 1:at + 3])[0]
    known = ".".join(labels) == NAME
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(ADDRESS) if known and kind == 1 else b""
    return query[:2] + struct.pack(">HHHHH", 0x8180 | (0 if known else 3), 1, 1 if record else 0, 0, 0) + query[12:at + 5] + record


def serve_names(names):
    while True:
        query, client = names.recvfrom(4096)
        names.sendto(answer(query), client)


def unshared(*what):
    """The beginning of a command line that runs a command in new namespaces, or None where that is not allowed."""
    flags = [f"--{name}" for name in what]
    for argv in (["unshare", *flags], ["unshare", "--user", "--map-root-user", *flags]):
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*argv, "true"], capture_output=True).returncode == 0:
                return argv
    return None


def as_child(serve):
    """Has a child do that for as long as this process lives, which will be another program."""
    if not os.fork():
        import ctypes
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
        serve()


def names(resolv):
    subprocess.run(["mount", "--bind", resolv, "/etc/resolv.conf"], check=True)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    as_child(lambda: serve_names(server))


def tap(queues, size, sums):
    """An interface tap0 with an address, and behind it a server of `size` bytes at port 5000, and at 5001 one that
    notes what it is sent."""
    subprocess.run(["ip", "tuntap", "add", "tap0", "mode", "tap", *(["multi_queue"] if int(queues) > 1 else [])], check=True)
    subprocess.run(["ip", "addr", "add", f"{TAP}/24", "dev", "tap0"], check=True)
    subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)

    def note(found):
        with open(sums, "a") as f:
            f.write(f"{found}\n")

    def serve():
        Server(bulk(int(size)), address="0.0.0.0", port=5000)
        Server(take=True, address="0.0.0.0", port=5001, note=note).join()
    as_child(serve)
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((TAP, 5001), 1):
            break
        time.sleep(0.1)


if __name__ == "__main__":
    end = sys.argv.index("--")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    {"names": names, "tap": tap}[sys.argv[1]](*sys.argv[2:end])
    os.execvp(sys.argv[end + 1], sys.argv[end + 1:])
