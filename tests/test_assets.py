# SPDX-License-Identifier: Apache-2.0
"""The cache of what guests are made of keeps what a running machine may open again."""
import os
import pathlib

import guest_assets


def test_the_archives_in_use_stay_and_the_oldest_go(monkeypatch, tmp_path):
    monkeypatch.setattr(guest_assets, "CACHE", tmp_path)
    monkeypatch.setattr(guest_assets, "busybox", lambda: pathlib.Path(__file__))
    old, used = guest_assets.initramfs("old"), guest_assets.initramfs("used")
    for path in old, used:
        os.utime(path, (1, 1))
    assert guest_assets.initramfs("used") == used
    for i in range(50):
        guest_assets.initramfs(f"another {i}")
    assert used.exists() and not old.exists()


def test_modules_can_be_the_first_thing_wanted(monkeypatch, tmp_path):
    """In an empty cache they bring their kernel, though making either takes the same lock."""
    class Apt:
        def depends(self, _):
            return "Depends: linux-image-1"

    def unpack(_, package, into):
        for name in ("boot/vmlinuz-1", "lib/modules/1/a-b.ko"):
            (pathlib.Path(into) / name).parent.mkdir(parents=True)
            (pathlib.Path(into) / name).write_text(package)
        return f"{package}_1.deb"

    monkeypatch.setattr(guest_assets, "CACHE", tmp_path)
    monkeypatch.setattr(guest_assets, "apt_for", lambda *_: Apt())
    monkeypatch.setattr(guest_assets, "unpack", unpack)
    assert [p.name for p in guest_assets.module_files().iterdir()] == ["a_b.ko"]
    assert (tmp_path / "guest/kernel-cloud/vmlinuz").read_text() == "linux-image-1"
