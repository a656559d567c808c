"""What is built: extension images made of Debian packages.

In: names of packages. Out: below build/bench/inputs/NAME an image layout for
each image of the input. The same packages give the same bytes; an input that
is there is not made again.
"""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ROOT / "build/bench/inputs"

# Changes when the code below makes other bytes of the same packages.
VERSION = 1

MANIFEST = """version: v1alpha1
metadata:
  name: {name}
  version: "1"
  author: plywood
  description: made of Debian packages, to measure with
"""

TOOLS = ("runc ipmitool btrfs-progs lvm2 xfsprogs strace criu smartmontools "
         "drbd-utils fio openvpn crun").split()

FIRMWARE = "misc-nonfree iwlwifi amd-graphics atheros brcm80211 realtek".split()


@dataclass
class Entry:
    """One entry of a changeset: a file's bytes, a link's target, or neither
    for a directory; whiteouts are empty files."""
    mode: int = 0o755
    content: bytes | None = None
    target: str | None = None


@dataclass
class Input:
    name: str
    what: str
    packages: list[str]
    # Package directory -> [(image name, [changeset: {path: Entry}])]
    make: callable = field(repr=False)

    @property
    def directory(self):
        return INPUTS / self.name

    def images(self):
        """Names of its images, made by now."""
        return json.loads((self.directory / "input.json").read_text())["images"]

    def facts(self):
        return json.loads((self.directory / "input.json").read_text())

    def prepare(self):
        """Makes the layouts unless they are there."""
        done = self.directory / "input.json"
        if done.exists() and self.facts()["version"] == VERSION:
            return
        print(f"making input {self.name}: {self.what}", flush=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        packages = self.directory / "packages"
        packages.mkdir(parents=True)
        if self.packages:
            command = ["sh", "benches/packages.sh", packages, *self.packages]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        debs = sorted(packages.glob("*.deb"))
        made_of = {deb.name: hashlib.sha256(deb.read_bytes()).hexdigest() for deb in debs}
        trees = {}
        for deb in debs:
            trees[deb.name.split("_")[0]] = tree = packages / deb.stem
            subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
        images, facts = [], {"files": 0, "bytes": 0, "packed": 0}
        for name, changesets in self.make(trees):
            images.append(name)
            for changeset in changesets:
                if isinstance(changeset, Members):
                    facts["files"] += changeset.files
                    facts["bytes"] += changeset.files * changeset.CHUNKS << 20
                    continue
                files = [entry for entry in changeset.values() if entry.content is not None]
                facts["files"] += len(files)
                facts["bytes"] += sum(len(entry.content) for entry in files)
            facts["packed"] += write_layout(self.directory / name, name, changesets)
        shutil.rmtree(packages)
        facts |= {"version": VERSION, "images": images, "packages": made_of}
        done.write_text(json.dumps(facts, indent=1) + "\n")


def walk(top, to, wanted=lambda path: True):
    """Everything below a directory, as entries below another path."""
    found = {}
    for path in sorted(top.rglob("*")):
        relative = path.relative_to(top)
        if not wanted(relative):
            continue
        name = f"{to}/{relative}"
        if path.is_symlink():
            found[name] = Entry(0o777, target=os.readlink(path))
        elif path.is_dir():
            found[name] = Entry()
        elif path.is_file():
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            found[name] = Entry(mode, path.read_bytes())
    return found


def binaries(trees):
    files = {}
    for package, path in [("podman", "usr/bin/podman"), ("kubernetes-client", "usr/bin/kubectl")]:
        content = (trees[package] / path).read_bytes()
        files[f"rootfs/usr/local/bin/{Path(path).name}"] = Entry(0o755, content)
    yield "gvisor", [files]


def firmware(trees):
    files = {}
    for tree in trees.values():
        files |= walk(tree / "lib/firmware", "rootfs/usr/lib/firmware")
    yield "firmware", [files]


def modules(trees):
    (tree,) = trees.values()
    yield "kmods", [walk(tree / "lib/modules", "rootfs/usr/lib/modules")]


def small_files(trees):
    """40,000 files of the kernel's source in four changesets, each with a
    quarter of the directories; and what hides and replaces some of them,
    from the second on."""
    archive, = trees["linux-source-6.1"].glob("usr/src/*.tar.xz")
    by_directory, count = {}, 0
    with tarfile.open(archive) as source:
        for member in source:
            if count == 40_000:
                break
            if member.isfile() and member.size <= 32 << 10:
                path = Path(member.name)
                content = source.extractfile(member).read()
                by_directory.setdefault(path.parent, {})[path.name] = content
                count += 1
    directories = sorted(by_directory)
    changesets = [{} for _ in range(5)]
    for number, directory in enumerate(directories):
        quarter = number * 4 // len(directories)
        names = by_directory[directory]
        at = f"rootfs/usr/local/share/{directory}"
        put(changesets[quarter], at, names)
        upper = changesets[quarter + 1]
        if number % 23 == 0:
            # An upper changeset starts the directory anew.
            upper[f"{at}/.wh..wh..opq"] = Entry(0o644, b"")
            put(upper, at, dict(list(names.items())[::2]))
        elif number % 5 == 0:
            for name in list(names)[::7]:
                upper[f"{at}/.wh.{name}"] = Entry(0o644, b"")
        elif number % 11 == 0:
            put(upper, at, {name: content[::-1] for name, content in list(names.items())[:2]})
    yield "manysmall", changesets


def put(changeset, directory, files):
    for name, content in files.items():
        changeset[f"{directory}/{name}"] = Entry(0o644, content)


def tools(trees):
    for package in TOOLS:
        is_kept = lambda path: path.parts[0] in ("bin", "sbin", "lib", "share")
        files = walk(trees[package] / "usr", "rootfs/usr/local", is_kept)
        sbin = trees[package] / "sbin"
        if sbin.is_dir():
            files |= walk(sbin, "rootfs/usr/local/sbin")
        yield package, [files]


INPUT_LIST = [
    Input("gvisor", "two large binaries", ["podman", "kubernetes-client"], binaries),
    Input("firmware", "a firmware tree", [f"firmware-{name}" for name in FIRMWARE], firmware),
    Input("kmods", "a kernel module tree", ["linux-image-amd64"], modules),
    Input("manysmall", "40,000 small files in five changesets", ["linux-source-6.1"], small_files),
    Input("set12", "twelve small extensions", TOOLS, tools),
]

NAMES = [input_.name for input_ in INPUT_LIST]

# One small file: what an image costs apart from its bytes.
TINY = Input("tiny", "one small file", [], lambda trees: [
    ("tiny", [{"rootfs/usr/local/share/tiny": Entry(0o644, b"tiny\n")}])])


def slices(trees):
    """Two MiB of a program each, all different."""
    binary = (trees["kubernetes-client"] / "usr/bin/kubectl").read_bytes()
    size = 2 << 20
    for number in range(200):
        start = number * 150_000
        content = b"%d\n" % number + binary[start:start + size]
        yield f"layer{number}", [{f"rootfs/usr/local/lib/layer{number}": Entry(0o644, content)}]


@dataclass
class Members:
    """A changeset too large to be made as a whole: files of 64 MiB, mostly
    alike inside, whose gzip is put together from members."""
    files: int

    CHUNKS = 64

    def pack(self):
        chosen = random.Random(self.files)
        chunks = [chosen.randbytes(64 << 10) + bytes(960 << 10) for _ in range(self.CHUNKS)]
        packed = [gzip.compress(chunk, 6, mtime=0) for chunk in chunks]
        diff, members = hashlib.sha256(), []

        def add(plain, member=None):
            diff.update(plain)
            members.append(member or gzip.compress(plain, 6, mtime=0))

        for number in range(self.files):
            header = tarfile.TarInfo(f"rootfs/usr/local/lib/{self.files}-{number}")
            header.size, header.mode = self.CHUNKS << 20, 0o644
            add(header.tobuf(tarfile.USTAR_FORMAT))
            for chunk in range(self.CHUNKS):
                index = (chunk * (2 * number + 1)) % self.CHUNKS
                add(chunks[index], packed[index])
        add(bytes(1024))
        return b"".join(members), diff.hexdigest()


def large(trees):
    """4 GiB: two changesets of 32 files, and one with the manifest."""
    yield "large", [{}, Members(32), Members(31)]


def many(trees):
    yield "many", [{f"rootfs/usr/local/share/{number % 500}/{number}": Entry(0o644, b"%d\n" % number)
                    for number in range(200_000)}]


# What memory must not grow with.
MEMORY_LIST = [Input("large", "4 GiB", [], large), Input("many", "200,000 files", [], many)]

# What is mounted, not what building is measured with.
LAYERS = Input("layers", "200 extensions of 2 MiB", ["kubernetes-client"], slices)

BY_NAME = {input_.name: input_ for input_ in [*INPUT_LIST, *MEMORY_LIST, TINY, LAYERS]}


def write_layout(directory, name, changesets):
    """Writes an image layout with one image; returns its packed bytes."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put_blob(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    changesets[0]["manifest.yaml"] = Entry(0o644, MANIFEST.format(name=name).encode())
    layers, diff_ids = [], []
    for changeset in changesets:
        packed, diff_id = changeset.pack() if isinstance(changeset, Members) else pack(changeset)
        diff_ids.append(f"sha256:{diff_id}")
        layers.append(put_blob(packed, "layer.v1.tar+gzip"))
    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": put_blob(json.dumps(config).encode(), "config.v1+json"), "layers": layers}
    index = {"schemaVersion": 2, "manifests": [put_blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return sum(layer["size"] for layer in layers)


def pack(entries):
    """A changeset's gzip, and its diff ID in hex."""
    plain = tar(entries)
    return gzip.compress(plain, 6, mtime=0), hashlib.sha256(plain).hexdigest()


def tar(entries):
    """A tar with every parent directory before what is in it."""
    whole = dict(entries)
    for path in entries:
        for parent in Path(path).parents:
            if str(parent) != ".":
                whole.setdefault(str(parent), Entry())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(whole):
            entry, member = whole[path], tarfile.TarInfo(path)
            member.mode, member.mtime = entry.mode, 1_700_000_000
            if entry.target is not None:
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
                archive.addfile(member)
            elif entry.content is not None:
                member.size = len(entry.content)
                archive.addfile(member, io.BytesIO(entry.content))
            else:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
    return buffer.getvalue()
