"""A cache file on a network drive: found by the table of mounts of each platform, and warned of."""

import ctypes
import pickle
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest

from nanogpt_core.cache import network_drive
from nanogpt_core.cache.network_drive import network_file_system
from nanogpt_core.cache.sqlite import SQLiteCache

LINUX = r"""sysfs /sys sysfs rw,nosuid,nodev,noexec,relatime 0 0
/dev/vda1 / ext4 rw,relatime 0 0
server:/export /mnt/nfs nfs4 rw,vers=4.2 0 0
//nas/share /mnt/my\040share cifs rw,vers=3.0 0 0
tmpfs /mnt/nfs/local tmpfs rw 0 0
me@host: /home/me/remote fuse.sshfs rw 0 0
/dev/vdb1 /data ext4 rw 0 0
server:/over /data nfs rw 0 0
drive /content/drive fuse.drive rw 0 0
bucket /mnt/bucket fuse.gcsfuse rw 0 0
/dev/fuse /run/user/1000/doc fuse.portal rw 0 0
none /sandbox 9p rw,trans=fd 0 0
"""
MACOS = """/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
//me@nas._smb._tcp.local/share on /Volumes/my share (smbfs, nodev, nosuid, mounted by me)
server:/export on /private/nfs (nfs, nodev, nosuid)
/dev/disk5s1 on /Volumes/USB (exfat, local)
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/me/c.db", None),
        ("/mnt/nfs/c.db", "nfs4"),
        ("/mnt/nfs/deep/er/c.db", "nfs4"),
        ("/mnt/nfs/local/c.db", None),
        ("/mnt/nfsother/c.db", None),
        ("/mnt/my share/c.db", "cifs"),
        ("/home/me/remote/c.db", "fuse.sshfs"),
        ("/content/drive/MyDrive/c.db", "fuse.drive"),
        ("/mnt/bucket/c.db", "fuse.gcsfuse"),
        ("/data/c.db", "nfs"),
        ("/run/user/1000/doc/c.db", None),
        ("/sandbox/c.db", None),
    ],
)
def test_linux_network_mounts_are_found(path, found):
    assert network_file_system(Path(path), "linux", LINUX) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/Users/me/c.db", None),
        ("/Volumes/my share/c.db", "smbfs"),
        ("/private/nfs/c.db", "nfs"),
        ("/Volumes/USB/c.db", None),
    ],
)
def test_macos_network_mounts_are_found(path, found):
    assert network_file_system(Path(path), "darwin", MACOS) == found


@pytest.mark.parametrize(
    ("path", "drive_type", "found"),
    [
        (r"\\server\share\c.db", 3, "SMB"),
        (r"Z:\vectors\c.db", 4, "SMB"),
        (r"C:\Users\me\c.db", 3, None),
    ],
)
def test_windows_network_drives_are_found(monkeypatch, path, drive_type, found):
    asked = []
    kernel32 = SimpleNamespace(GetDriveTypeW=lambda root: asked.append(root) or drive_type)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    assert network_file_system(PureWindowsPath(path), "win32") == found
    assert asked == ([] if path.startswith("\\\\") else [path[:3]])


def test_unreadable_or_odd_tables_mean_unknown(monkeypatch):
    for platform in ("linux", "darwin"):
        assert network_file_system(Path("/c.db"), platform, "odd\n\n") is None

    def fail(*_args, **_more):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(network_drive, "_mount_output", fail)
    monkeypatch.setattr(Path, "read_text", fail)
    for platform in ("linux", "darwin", "freebsd14"):
        assert network_file_system(Path("/c.db"), platform) is None


def test_cache_on_a_network_drive_warns_of_the_risk(monkeypatch, tmp_path):
    monkeypatch.setattr(network_drive.Path, "read_text", lambda *_args, **_more: f"server:/x {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr(network_drive.sys, "platform", "linux")
    with pytest.warns(RuntimeWarning, match=r"network drive \(nfs\).*several machines.*local disk") as caught:
        cache = SQLiteCache(tmp_path / "c.db")
    assert [warning.filename for warning in caught] == [__file__]
    cache.put_many({b"a": b"1"})
    assert dict(cache.get_many([b"a"])) == {b"a": b"1"}
    with pytest.warns(RuntimeWarning, match="network drive"):
        pickle.loads(pickle.dumps(cache))


def test_cache_on_a_local_disk_does_not_warn(tmp_path, recwarn):
    SQLiteCache(tmp_path / "c.db")
    assert not recwarn.list
