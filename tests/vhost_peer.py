# SPDX-License-Identifier: Apache-2.0
"""The back end of a vhost-user network card, for tests: a host that answers ARP and pings, and one that misbehaves as it
is told. Written from QEMU's docs/interop/vhost-user.rst and virtio 1.2, 2.7 and 5.1."""
import array
import contextlib
import mmap
import os
import select
import socket
import struct
import threading

(GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK,
 SET_VRING_CALL, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE) = 1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 15, 16, 18
VERSION_1, PROTOCOL_FEATURES, MRG_RXBUF = 1 << 32, 1 << 30, 1 << 15
REPLY_ACK = 1 << 3
RX, TX, NEXT, WRITE, NET_HEADER = 0, 1, 1, 2, 12
MAC, ADDRESS = bytes.fromhex("525400aabbcc"), bytes([10, 0, 0, 1])


def checksum(data):
    total = sum(array.array("H", data + bytes(len(data) % 2)))  # of bytes swapped, which changes nothing but the order
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return struct.pack("<H", ~total & 0xffff)


class Ring:
    def __init__(self):
        self.size, self.desc, self.used, self.avail = 0, 0, 0, 0
        self.next_avail = self.next_used = 0
        self.kick = self.call = None
        self.enabled = False


class Peer(threading.Thread):
    """Listens at `path` and serves one connection after the other until it is closed. `bad` is one of: None; "mute" (answers
    nothing), "leave" (hangs up at the first packet), "head" (completes what it was not given), "noise" (speaks unasked),
    "short" (an answer of a wrong size)."""

    def __init__(self, path, bad=None):
        super().__init__(daemon=True)
        self.path, self.bad = str(path), bad
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        os.chmod(self.path, 0o666)
        self.listener.listen(1)
        self.wake, self.waker = socket.socketpair()
        self.packets, self.stops, self.connections = 0, 0, 0
        self.error = None
        self.start()

    def close(self):
        self.waker.close()
        self.join(10)
        self.listener.close()
        os.unlink(self.path)
        assert not self.is_alive()
        if self.error:
            raise self.error

    def run(self):
        try:
            while True:
                ready, _, _ = select.select([self.listener, self.wake], [], [])
                if self.wake in ready:
                    return
                self.client = self.listener.accept()[0]
                self.connections += 1
                self.regions, self.rings = [], [Ring(), Ring()]
                with self.client, contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    if not self.serve():
                        return
        except Exception as e:  # of the thread: the test shall see it
            self.error = e

    def serve(self):
        """Until the connection ends; False at the peer's own end."""
        while True:
            kicks = [r.kick for r in self.rings if r.kick is not None]
            ready, _, _ = select.select([self.client, self.wake, *kicks], [], [])
            if self.wake in ready:
                return False
            if self.client in ready and not self.message():
                return True
            for ring in self.rings:
                if ring.kick in ready:
                    os.eventfd_read(ring.kick)
                    if self.bad == "leave":
                        return True
                    self.transmit()

    # --- messages

    def message(self):
        head, fds, _, _ = socket.recv_fds(self.client, 12, 8)
        if not head:
            return False
        request, flags, size = struct.unpack("<III", head)
        body = self.client.recv(size, socket.MSG_WAITALL) if size else b""
        assert flags & 3 == 1 and len(body) == size
        if self.bad == "mute":
            return True
        if self.bad == "noise" and request == SET_VRING_KICK:
            self.client.sendall(b"\1" * 12)
        answer = self.handle(request, body, fds)
        if answer is None and flags & 8:
            answer = struct.pack("<Q", 0)
        if answer is not None:
            if self.bad == "short":
                answer = answer[:-1]
            self.client.sendall(struct.pack("<III", request, 5, len(answer)) + answer)
        return True

    def handle(self, request, body, fds):
        if request == GET_FEATURES:
            return struct.pack("<Q", VERSION_1 | PROTOCOL_FEATURES | MRG_RXBUF)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("<Q", REPLY_ACK)
        if request == SET_FEATURES:
            assert struct.unpack("<Q", body)[0] & VERSION_1
        elif request == SET_MEM_TABLE:
            count = struct.unpack_from("<I", body)[0]
            assert len(fds) == count
            for i, fd in enumerate(fds):
                gpa, length, user, offset = struct.unpack_from("<QQQQ", body, 8 + 32 * i)
                self.regions.append((gpa, user, length, mmap.mmap(fd, length, offset=offset)))
                os.close(fd)
        elif request in (SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE, GET_VRING_BASE):
            index, value = struct.unpack("<II", body)
            ring = self.rings[index]
            if request == SET_VRING_NUM:
                ring.size = value
            elif request == SET_VRING_BASE:
                ring.next_avail = ring.next_used = value
            elif request == SET_VRING_ENABLE:
                ring.enabled = bool(value)
            else:
                self.stops += 1
                self.rings[index] = Ring()
                return struct.pack("<II", index, ring.next_avail)
        elif request == SET_VRING_ADDR:
            index, _, desc, used, avail, _ = struct.unpack("<IIQQQQ", body)
            ring = self.rings[index]
            ring.desc, ring.used, ring.avail = desc, used, avail
        elif request == SET_VRING_KICK:
            self.rings[body[0]].kick = fds[0]
        elif request == SET_VRING_CALL:
            self.rings[body[0]].call = fds[0]
        return None

    # --- memory and rings

    def find(self, address, size, by):
        for region in self.regions:
            if region[by] <= address and address + size <= region[by] + region[2]:
                return region[3], address - region[by]
        raise AssertionError(f"no memory at {address:#x}")

    def read(self, address, size, by=1):
        memory, at = self.find(address, size, by)
        return memory[at:at + size]

    def write(self, address, data, by=1):
        memory, at = self.find(address, len(data), by)
        memory[at:at + len(data)] = data

    def pop(self, ring):
        """The next chain: its head, and (address, size, flags) of each part."""
        if not ring.enabled or struct.unpack("<H", self.read(ring.avail + 2, 2))[0] == ring.next_avail:
            return None
        head = index = struct.unpack("<H", self.read(ring.avail + 4 + 2 * (ring.next_avail % ring.size), 2))[0]
        ring.next_avail = ring.next_avail + 1 & 0xffff
        parts, flags = [], NEXT
        while flags & NEXT:
            address, size, flags, index = struct.unpack("<QIHH", self.read(ring.desc + 16 * index, 16))
            parts.append((address, size, flags))
        return head, parts

    def push(self, ring, head, written):
        if self.bad == "head":
            head ^= 0x155
        self.write(ring.used + 4 + 8 * (ring.next_used % ring.size), struct.pack("<II", head, written))
        ring.next_used = ring.next_used + 1 & 0xffff
        self.write(ring.used + 2, struct.pack("<H", ring.next_used))
        os.eventfd_write(ring.call, 1)

    # --- the host

    def transmit(self):
        while chain := self.pop(self.rings[TX]):
            head, parts = chain
            frame = b"".join(self.read(a, n, 0) for a, n, f in parts if not f & WRITE)[NET_HEADER:]
            self.packets += 1
            self.push(self.rings[TX], head, 0)
            answer = self.answer(frame)
            if answer:
                self.receive(answer)

    def receive(self, frame):
        chain = self.pop(self.rings[RX])
        if not chain:
            return  # the guest has no buffer: the packet is lost
        head, parts = chain
        data = bytes(10) + b"\1\0" + frame  # one buffer is used
        written = len(data)
        for address, size, flags in parts:
            assert flags & WRITE
            self.write(address, data[:size], 0)
            data = data[size:]
        assert not data
        self.push(self.rings[RX], head, written)

    def answer(self, frame):
        kind = frame[12:14]
        if kind == b"\x08\x06" and frame[38:42] == ADDRESS:
            return (frame[6:12] + MAC + frame[12:20] + b"\0\2" + MAC + ADDRESS + frame[22:32]).ljust(60, b"\0")
        if kind == b"\x08\0" and frame[23] == 1 and frame[30:34] == ADDRESS and frame[34] == 8:
            size = struct.unpack(">H", frame[16:18])[0]
            icmp = b"\0\0\0\0" + frame[38:14 + size]
            icmp = icmp[:2] + checksum(icmp) + icmp[4:]
            return (frame[6:12] + MAC + frame[12:26] + frame[30:34] + frame[26:30] + icmp).ljust(60, b"\0")
        return None
