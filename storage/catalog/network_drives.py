"""Detect network drives, where SQLite cannot be: its write-ahead log needs shared memory, which
they lack, and file locks, which they may not honour."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from storage.catalog.errors import CatalogError

log = logging.getLogger(__name__)

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of mounts; on other systems nothing is refused."""

KINDS = frozenset(
    [
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.goofys",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb2",
        "smb3",
        "smbfs",
    ]
)


class NetworkDriveError(CatalogError):
    """A catalog in SQLite cannot be made on a network drive. Put it on a disk of this machine
    (`database_url`), or use PostgreSQL."""


def network_drive(path: Path) -> str | None:
    """The kind of network drive that the path is on; None for other disks."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return None
    place, found = path.resolve(), (0, "")
    for line in lines:
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) > 4 and source:
            # Spaces and the like are written as octal numbers.
            point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
            if place.is_relative_to(point) and len(point.parts) >= found[0]:
                found = len(point.parts), source.split(" ")[0]
    return found[1] if found[1] in KINDS else None


def check_drive(path: Path) -> None:
    """Log a warning for an existing catalog on a network drive.

    Raises:
        NetworkDriveError: the catalog would be created there.
    """
    kind = network_drive(path)
    if kind is None:
        return
    why = (
        f"{path} is on a network drive ({kind}), where SQLite can lose data as soon as two "
        "machines use it: set database_url to sqlite:////path/on/a/local/disk/catalog.db, or to "
        "PostgreSQL's"
    )
    if not path.exists():
        raise NetworkDriveError(why)
    log.warning(why)
