from pathlib import Path

from hubsync.watch.mounts import file_system_of, is_volatile, mount_point, mounts_below, network_file_system

TABLE = r"""21 1 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 21 0:35 / /data rw,relatime shared:20 - nfs4 server:/export rw,vers=4.2
41 40 0:36 / /data/local rw - xfs /dev/vdb rw
42 21 0:37 / /mnt/with\040space rw - fuse.sshfs me@host:/ rw
43 21 0:38 / /twice rw - ext4 /dev/vdc rw
44 43 0:39 / /twice rw - lustre mds:/fs rw
45 21 0:40 / /win rw - fuseblk /dev/sdb1 rw
torn line
"""


def test_the_innermost_mount_decides() -> None:
    """A local disk mounted inside a network directory is local, and names need more than a common start."""
    assert "nfs4" == file_system_of("/data/runs/a", TABLE)
    assert "xfs" == file_system_of("/data/local/a", TABLE)
    assert "ext4" == file_system_of("/database", TABLE)
    assert "fuse.sshfs" == file_system_of("/mnt/with space/x", TABLE)
    assert "lustre" == file_system_of("/twice/x", TABLE)


def test_only_file_systems_that_hide_changes_are_named(tmp_path: Path) -> None:
    """The answer is the type of a network file system, or none."""
    table = tmp_path / "mountinfo"
    for kind, expected in (
        ("nfs4", "nfs4"),
        ("fuse.s3fs", "fuse.s3fs"),
        ("ext4", None),
        ("overlay", None),
        ("fuseblk", None),
    ):
        table.write_text(f"21 1 0:1 / / rw shared:1 - {kind} none rw\n")

        assert expected == network_file_system(tmp_path, table)


def test_what_is_in_memory_is_volatile(tmp_path: Path) -> None:
    """A queue there is gone after a restart of the machine."""
    table = tmp_path / "mountinfo"
    for kind, expected in (("tmpfs", True), ("ext4", False), ("overlay", False)):
        table.write_text(f"21 1 0:1 / / rw shared:1 - {kind} none rw\n")

        assert expected == is_volatile(tmp_path, table)


def test_a_mount_point_is_told_by_its_own_name(tmp_path: Path) -> None:
    """Without the slash at its end, and of a source by whatever name."""
    table = tmp_path / "mountinfo"
    (tmp_path / "link").symlink_to(tmp_path)
    table.write_text(f"21 1 0:1 / / rw - ext4 none rw\n22 21 0:2 / {tmp_path} rw - xfs none rw\n")

    assert str(tmp_path) == mount_point(tmp_path / "link" / "run", table)
    assert "" == mount_point(Path("/usr"), table)
    assert mount_point(tmp_path, tmp_path / "none") is None


def test_no_mount_table_means_local(tmp_path: Path) -> None:
    """Where nothing can be known, events are tried."""
    assert network_file_system(tmp_path, tmp_path / "absent") is None
    assert network_file_system(tmp_path) is None


def test_what_is_mounted_below_is_told_by_its_path_in_the_source(tmp_path: Path) -> None:
    """Whatever the source is called; not the source itself, what only begins as it does, or what waits for a disk."""
    table = tmp_path / "mountinfo"
    (tmp_path / "link").symlink_to(tmp_path)
    points = {"": "xfs", "/a/b\\040c": "tmpfs", "/config.json": "ext4", "/disk": "autofs", "-other": "xfs"}
    table.write_text("".join(f"22 21 0:2 / {tmp_path}{point} rw - {kind} none rw\n" for point, kind in points.items()))

    assert {"a/b c", "config.json"} == mounts_below(tmp_path / "link", table)
    assert set() == mounts_below(tmp_path, tmp_path / "none")
