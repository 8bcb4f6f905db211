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
