"""Writes random archives and what tarfile and GNU tar read from them.

archives.py good|damaged COUNT DIRECTORY: for each seed SEED.tar, SEED.list as
tarfile sees it, a line an entry: type mode uid:gid mtime size crc32 path
target; and SEED.gnu as GNU tar does: the same without crc32.

archives.py trees|damaged-trees COUNT DIRECTORY: the same for archives of
extensions, but the lists are of what was extracted; see walk().

archives.py walk DIRECTORY...: writes DIRECTORY.list for each.
"""

import calendar
import io
import os
import random
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
KINDS = {
    tarfile.DIRTYPE: "directory",
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "fifo",
}


def name(rng, longest):
    parts = []
    while not parts or rng.random() < 0.6:
        alphabet = rng.choice(["ab", "a b.-_~", "aöß€😀"])
        parts.append("x" + "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 5, 40, 60]))))
    text = "/".join(parts)
    while len(text.encode()) > longest:
        text = text[: len(text) // 2].rstrip("/")
    return text


def write(rng, form):
    out = io.BytesIO()
    longest = 90 if form == tarfile.USTAR_FORMAT else 2000
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for _ in range(rng.randrange(6)):
            info = tarfile.TarInfo(rng.choice(["", "./", "/"]) + name(rng, longest))
            info.type = rng.choice([k for k in KINDS if k != tarfile.AREGTYPE] + [tarfile.REGTYPE] * 3)
            info.mode = rng.randrange(0o10000)
            big = 0o7777777 if form == tarfile.USTAR_FORMAT else 2**32 - 1
            info.uid, info.gid = rng.randrange(big), rng.randrange(1000)
            info.mtime = rng.choice([0, 1700000000, 2**32 - 1])
            if form == tarfile.PAX_FORMAT:
                info.mtime += rng.choice([0, 0.5])
                if rng.random() < 0.3:
                    info.pax_headers = {"comment": "c" * rng.randrange(600), "SCHILY.xattr.user.a": "ö"}
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = name(rng, longest)
            data = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000])) if info.isreg() else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return bytearray(out.getvalue())


def damage(rng, archive):
    """Changes some bytes of a header and makes its checksum fit again."""
    if len(archive) < 2048:
        return
    at = 512 * rng.randrange(len(archive) // 512)
    fields = [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)]
    start, length = rng.choice(fields)
    for _ in range(rng.choice([1, 1, 2, 4])):
        archive[at + start + rng.randrange(length)] = rng.choice(b"\0 /.-017axgLKS5\x80\xff")
    archive[at + 148 : at + 156] = b" " * 8
    archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + 512])


def normal(path):
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def listing(archive):
    lines = []
    with tarfile.open(fileobj=io.BytesIO(bytes(archive)), errors="surrogateescape") as members:
        for info in members:
            data = members.extractfile(info).read() if info.isreg() else b""
            target = info.linkname if info.issym() else normal(info.linkname) if info.islnk() else ""
            time = min(max(int(info.mtime), 0), 2**32 - 1)
            hexed = [os.fsencode(text).hex() for text in (normal(info.name), target)]
            fields = [KINDS.get(info.type, "unknown"), "%o" % (info.mode & 0o7777), f"{info.uid}:{info.gid}"]
            lines.append(" ".join(map(str, [*fields, time, info.size, zlib.crc32(data), *hexed])))
    return lines


GNU = ["tar", "--list", "--verbose", "--numeric-owner", "--full-time", "--quoting-style=c", "-P", "-f"]
GNU_KINDS = {"d": "directory", "-": "file", "l": "symlink", "h": "link", "c": "device", "b": "device", "p": "fifo"}
LINE = re.compile(
    rb"(.)(.{9})\+? +(\d+)/(\d+) +([\d,]+) (-?\d+-\d+-\d+ \d+:\d+:\d+)(?:\.\d+)? +"
    rb'"((?:[^"\\]|\\.)*)"(?:(?: -> | link to )"((?:[^"\\]|\\.)*)")?'
)


def octal(mode):
    bits = sum(1 << 8 - place for place, char in enumerate(mode) if char in "rwxst")
    special = [(2, "sS", 0o4000), (5, "sS", 0o2000), (8, "tT", 0o1000)]
    return bits | sum(bit for place, chars, bit in special if mode[place] in chars)


def unescaped(name):
    return re.sub(
        rb"\\([0-7]{3}|.)",
        lambda match: bytes([int(match[1], 8)]) if len(match[1]) == 3 else
        {b"n": b"\n", b"t": b"\t", b"b": b"\b", b"r": b"\r", b"f": b"\f", b"a": b"\a", b"v": b"\v"}.get(match[1], match[1]),
        name,
    )


def gnu_listing(path):
    result = subprocess.run([*GNU, path], capture_output=True, env={**os.environ, "LC_ALL": "C", "TZ": "UTC"})
    if result.returncode:
        return [f"refused: {result.stderr.decode(errors='replace')}"]
    lines = []
    for line in result.stdout.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            lines.append(f"unknown: {line}")
            continue
        kind, mode, uid, gid, size, date, name, target = match.groups()
        kind = GNU_KINDS.get(kind.decode(), "unknown")
        seconds = min(max(calendar.timegm(time.strptime(date.decode(), "%Y-%m-%d %H:%M:%S")), 0), 2**32 - 1)
        names = [normal(os.fsdecode(unescaped(name))), os.fsdecode(unescaped(target or b""))]
        if kind == "link":
            names[1] = normal(names[1])
        hexed = [os.fsencode(text).hex() for text in names]
        size = 0 if b"," in size else int(size)
        fields = [kind, "%o" % octal(mode.decode()), f"{int(uid)}:{int(gid)}", seconds, size]
        lines.append(" ".join(map(str, [*fields, *hexed])))
    return lines


def extension(rng, form):
    """An archive of an extension, whose names and contents are harmless where damage takes them for one another."""
    out = io.BytesIO()
    word = lambda: "".join(rng.choice("abcXYZ_") for _ in range(rng.choice([3, 9, 60])))
    directories = ["rootfs/usr/local"]
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        def add(name, type, mode=0o644, data=b"", target=""):
            info = tarfile.TarInfo(rng.choice(["", "./"]) + name)
            info.type, info.mode, info.size, info.linkname = type, mode, len(data), target
            info.mtime = rng.choice([1, 1600000000, 1700000000])
            if form == tarfile.PAX_FORMAT:
                info.mtime += rng.choice([0, 0.25])
                info.pax_headers = rng.choice([{}, {"comment": "c" * rng.randrange(600)}])
            archive.addfile(info, io.BytesIO(data))

        add("manifest.yaml", tarfile.REGTYPE, data=b"version: v1alpha1\nmetadata: {name: tool, version: v1}\n")
        for name in ["rootfs", "rootfs/usr", "rootfs/usr/local"]:
            add(name, tarfile.DIRTYPE, 0o755)
        for _ in range(rng.randrange(1, 12)):
            name = f"{rng.choice(directories)}/{word()}"
            if len(name) > 90 and form == tarfile.USTAR_FORMAT:
                continue
            kind = rng.choice([tarfile.DIRTYPE, tarfile.SYMTYPE] + [tarfile.REGTYPE] * 4)
            if kind == tarfile.DIRTYPE:
                directories.append(name)
                add(name, kind, rng.choice([0o755, 0o700, 0o555]))
            elif kind == tarfile.SYMTYPE:
                add(name, kind, 0o777, target=word())
            else:
                data = bytes(rng.choice(b"abcXYZ_") for _ in range(rng.choice([0, 1, 100, 511, 512, 513, 5000])))
                add(name, kind, rng.choice([0o644, 0o755, 0o400]), data)
    return bytearray(out.getvalue())


def damage_extension(rng, archive):
    """Changes one header, not so that a name could lead elsewhere or a device be made."""
    at = 512 * rng.choice([at for at in range(len(archive) // 512) if archive[512 * at + 257 :].startswith(b"ustar")])
    fields = [(0, 30, b"aL_"), (100, 8, b"0157 \0"), (124, 12, b"01 \0\x80"), (136, 12, b"01 \0\xff"),
              (156, 1, b"0125xgLKSDMVA\0"), (157, 30, b"aL_"), (257, 8, b"ustar 0\0"), (345, 20, b"aL_")]
    start, length, values = rng.choice(fields)
    for _ in range(rng.choice([1, 1, 2])):
        archive[at + start + rng.randrange(length)] = rng.choice(values)
    archive[at + 148 : at + 156] = b" " * 8
    archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + 512])


def walk(root):
    """What is below root: path, type, mode, mtime, crc32; of symlinks the target."""
    lines = []
    for parent, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            line = [os.path.relpath(path, root), stat.filemode(status.st_mode)[0]]
            if stat.S_ISLNK(status.st_mode):
                line.append(os.readlink(path))
            else:
                line += ["%o" % stat.S_IMODE(status.st_mode), int(status.st_mtime)]
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    line.append(zlib.crc32(file.read()))
            lines.append(" ".join(map(str, line)))
    return sorted(lines)


def extracted(extract):
    with tempfile.TemporaryDirectory() as scratch:
        try:
            extract(scratch)
        except Exception as error:  # tarfile raises almost anything on damaged archives
            return [f"refused: {error}"]
        return walk(os.path.join(scratch, "rootfs"))


def tarfile_extract(archive):
    def extract(scratch):
        with tarfile.open(fileobj=io.BytesIO(bytes(archive))) as members:
            members.extractall(scratch)
    return extract


def gnu_extract(path):
    def extract(scratch):
        flags = ["--extract", "--delay-directory-restore", "--same-permissions", "--no-same-owner", "--directory", scratch, "--file", path]
        result = subprocess.run(["tar", *flags], capture_output=True, env={**os.environ, "LC_ALL": "C"})
        if result.returncode:
            raise ValueError(result.stderr.decode(errors="replace"))
    return extract


def trees(what, count, directory):
    for seed in range(int(count)):
        rng = random.Random(f"{what} {seed}")
        archive = extension(rng, FORMATS[seed % len(FORMATS)])
        if what == "damaged-trees":
            damage_extension(rng, archive)
        path = os.path.join(directory, f"{seed}.tar")
        with open(path, "wb") as file:
            file.write(archive)
        for suffix, extract in [("list", tarfile_extract(archive)), ("gnu", gnu_extract(path))]:
            with open(os.path.join(directory, f"{seed}.{suffix}"), "w") as file:
                file.writelines(line + "\n" for line in extracted(extract))


def main(what, count, directory):
    for seed in range(int(count)):
        rng = random.Random(f"{what} {seed}")
        archive = write(rng, FORMATS[seed % len(FORMATS)])
        if what == "damaged":
            damage(rng, archive)
        try:
            lines = listing(archive)
        except Exception as error:  # tarfile raises almost anything on damaged archives
            lines = [f"refused: {error}"]
        with open(os.path.join(directory, f"{seed}.tar"), "wb") as file:
            file.write(archive)
        with open(os.path.join(directory, f"{seed}.list"), "w") as file:
            file.writelines(line + "\n" for line in lines)
        lines = gnu_listing(os.path.join(directory, f"{seed}.tar"))
        with open(os.path.join(directory, f"{seed}.gnu"), "w") as file:
            file.writelines(line + "\n" for line in lines)


if sys.argv[1] == "walk":
    for directory in sys.argv[2:]:
        with open(directory + ".list", "w") as file:
            file.writelines(line + "\n" for line in walk(directory))
elif "trees" in sys.argv[1]:
    trees(*sys.argv[1:])
else:
    main(*sys.argv[1:])
