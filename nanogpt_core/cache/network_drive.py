"""Detection of network drives, on which SQLite's write-ahead log is not safe."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

# Not 9p: sandboxes such as gVisor use it for local disks.
_NETWORK_TYPES = re.compile(
    r"afpfs|afs|beegfs|ceph|cifs|coda|davfs|gfs2|gpfs|lustre|ncpfs|nfs4?|ocfs2|panfs|smb3|smbfs|webdav"
    r"|fuse\.(ceph|drive|gcsfuse|glusterfs|juicefs|rclone|s3fs|sshfs)"  # drive: Google Drive in Colab
)
_DRIVE_REMOTE = 4  # a value of GetDriveTypeW of the Windows API


def network_file_system(path: Path, platform: str = sys.platform, mounts: str | None = None) -> str | None:
    """Return the type of the network file system that an absolute path is on; None if it is local or unknown.

    The file need not exist. ``mounts`` is the table of mounts, as the ``platform`` prints it; default: this machine's.
    """
    if platform == "win32":
        return "SMB" if _windows_drive_type(path) == _DRIVE_REMOTE else None
    try:
        if platform.startswith("linux"):
            table = _parse_proc_mounts(mounts or Path("/proc/self/mounts").read_text(errors="surrogateescape"))
        else:
            table = _parse_mount_output(mounts or _mount_output())
    except OSError:
        return None
    mounted = dict(table)  # of two mounts at one point, the later one is on top
    place = PurePosixPath(path)
    file_system = next((mounted[str(one)] for one in (place, *place.parents) if str(one) in mounted), "")
    return file_system if _NETWORK_TYPES.fullmatch(file_system) else None


def _parse_proc_mounts(text: str) -> list[tuple[str, str]]:
    # Lines such as "/dev/vda1 / ext4 rw 0 0"; a blank in a name is "\040".
    rows = re.findall(r"^\S+ (\S+) (\S+) ", text, re.MULTILINE)
    return [(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point), kind) for point, kind in rows]


def _parse_mount_output(text: str) -> list[tuple[str, str]]:
    # Lines such as "/dev/disk5s1 on /Volumes/USB (exfat, local)".
    return re.findall(r"^.*? on (/.*) \(([^,)]+)", text, re.MULTILINE)


def _windows_drive_type(path: Path) -> int:
    drive = PureWindowsPath(path).drive
    if drive.startswith("\\\\"):
        return _DRIVE_REMOTE
    import ctypes

    windll = getattr(ctypes, "windll", None)
    return int(windll.kernel32.GetDriveTypeW(f"{drive}\\")) if windll is not None else 0


def _mount_output() -> str:
    import subprocess

    # By its full path: a program named `mount` in PATH could be anything.
    with contextlib.suppress(subprocess.SubprocessError):
        return subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5, check=True).stdout
    return ""
