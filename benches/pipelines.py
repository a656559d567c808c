"""The ways from a registry to a squashfs that are compared.

In: an image on a registry. Out: a Sample for each way. All verify what they
fetch, all write zstd 3 in 128 KiB blocks; containerd makes no squashfs, it
only unpacks.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from measuring import PROGRAMS, ROOT, Failed, Sample, measure

PLYWOOD = ROOT / "build/plywood"
BLOCK = 128 << 10
LEVEL = 3


class Scratch:
    """An empty directory for one sample, in memory where there is room."""

    def __init__(self):
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30
        self.path = (memory if roomy else ROOT / "build/bench") / f"plywood-bench-{os.getpid()}"

    def __enter__(self):
        self.path.mkdir()
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path)


def configuration(scratch, authority, layer=None):
    """A machine configuration that knows the registry as `bench.test`."""
    mirror = {"endpoints": [f"http://{authority}"], "skipFallback": True}
    document = {"version": "v1alpha1", "machine": {"registries": {"mirrors": {"bench.test": mirror}}}}
    # More entries than the default allows: 200,000 files lie in directories.
    document["plywood"] = {"limits": {"entries": 400_000}, "layer": layer or {}}
    path = scratch / "config.yaml"
    path.write_text(json.dumps(document))
    return path


def plywood(authority, image, scratch, layer=None, prefix=()):
    output = scratch / "layer.sqsh"
    config = configuration(scratch, authority, layer)
    # A host by name: the kernel that runs here is none of the image's business.
    command = [*prefix, PLYWOOD, "pack", f"bench.test/{image}:latest", "-o", output,
               "--config", config, "--host", "bench=1", "--arch", "amd64"]
    sample = measure(command, scratch)
    sample.size = output.stat().st_size
    return sample


def one_core(authority, image, scratch):
    return plywood(authority, image, scratch, prefix=["taskset", "--cpu-list", first_core()])


def together(authority, input_, scratch):
    """All images of an input by one process, in a store."""
    config = configuration(scratch, authority)
    document = json.loads(config.read_text())
    extensions = [{"image": f"bench.test/{image}:latest"} for image in input_.images()]
    document["machine"]["install"] = {"extensions": extensions}
    config.write_text(json.dumps(document))
    state = scratch / "state"
    sample = measure([PLYWOOD, "apply", "--file", config, "--state", state], scratch)
    sample.size = sum(layer.stat().st_size for layer in state.glob("layers/*.sqsh"))
    return sample


def with_workers(input_, count, scratch):
    """The input's only image by so many threads that compress, from its layout."""
    image, = input_.images()
    return measure([PROGRAMS / "workers", count, input_.directory / image, scratch / "state"], scratch)


def first_core():
    return str(min(os.sched_getaffinity(0)))


def skopeo(authority, image, scratch):
    """To an image layout; returns it and the sample."""
    layout = scratch / "layout"
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false",
               f"docker://{authority}/{image}:latest", f"oci:{layout}:latest"]
    return layout, measure(command, scratch)


def umoci(authority, image, scratch):
    layout, sample = skopeo(authority, image, scratch)
    bundle, output = scratch / "bundle", scratch / "layer.sqsh"
    sample.add(measure(["umoci", "unpack", "--image", f"{layout}:latest", bundle], scratch))
    command = ["mksquashfs", bundle / "rootfs/rootfs", output, "-comp", "zstd", "-Xcompression-level", LEVEL,
               "-b", BLOCK, "-noappend", "-quiet", "-no-progress"]
    sample.add(measure(command, scratch))
    sample.size = output.stat().st_size
    return sample


def tar2sqfs(authority, image, scratch):
    layout, sample = skopeo(authority, image, scratch)
    changesets = changesets_of(layout)
    if len(changesets) != 1:
        raise Failed("takes one changeset only")
    output = scratch / "layer.sqsh"
    command = ["tar2sqfs", "--quiet", "--root-becomes", "rootfs", "--compressor", "zstd",
               "--comp-extra", f"level={LEVEL}", "--block-size", BLOCK, output]
    sample.add(measure(command, scratch, stdin=changesets[0]))
    sample.size = output.stat().st_size
    return sample


def krata(authority, image, scratch):
    work, output = scratch / "krata", scratch / "layer.sqsh"
    work.mkdir()
    command = [PROGRAMS / "krata", f"http://{authority}", image, "latest", work, output]
    sample = measure(command, scratch)
    sample.size = output.stat().st_size
    return sample


def containerd(authority, image, scratch):
    """Pulls and unpacks; the daemon's CPU and memory count, its start does not."""
    if os.geteuid() != 0:
        raise Failed("needs root")
    address = scratch / "containerd.sock"
    config = scratch / "containerd.toml"
    config.write_text(f"""version = 2
root = "{scratch}/containerd"
state = "{scratch}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{address}"
""")
    with open(scratch / "containerd.log", "w") as log:
        daemon = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
    try:
        wait_for(address, daemon)
        before = cpu_seconds(daemon.pid)
        command = ["ctr", "--address", address, "images", "pull", "--plain-http",
                   f"{authority}/{image}:latest"]
        sample = measure(command, scratch)
        sample.cpu += cpu_seconds(daemon.pid) - before
        sample.rss = max(sample.rss, peak_rss(daemon.pid))
        return sample
    finally:
        daemon.terminate()
        daemon.wait()


def wait_for(address, daemon):
    for _ in range(200):
        asked = subprocess.run(["ctr", "--address", address, "version"], capture_output=True)
        if asked.returncode == 0:
            return
        if daemon.poll() is not None:
            break
        time.sleep(0.05)
    raise Failed("containerd does not start here")


def cpu_seconds(pid):
    """Of a process and its children that have ended."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in after_name[11:15]) / os.sysconf("SC_CLK_TCK")


def peak_rss(pid):
    line, = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def changesets_of(layout):
    """Files of the changesets of a layout's only image, lowest first."""
    read = lambda digest: layout / "blobs" / digest.replace(":", "/")
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(read(index["manifests"][0]["digest"]).read_text())
    return [read(layer["digest"]) for layer in manifest["layers"]]


def limits(input_, scratch):
    """CPU seconds of each step by itself, on the input's own bytes."""
    files = [file for image in input_.images() for file in changesets_of(input_.directory / image)]
    command = [str(part) for part in (PROGRAMS / "limits", BLOCK, LEVEL, *files)]
    steps = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return steps


OURS = "plywood"
TOGETHER = "plywood, all together"
ONE_CORE = "plywood, one core"
UMOCI = "skopeo + umoci + mksquashfs"
TAR2SQFS = "skopeo + tar2sqfs"
KRATA = "krata's way"
CONTAINERD = "containerd (unpack only)"

WAYS = {OURS: plywood, ONE_CORE: one_core, UMOCI: umoci, TAR2SQFS: tar2sqfs, KRATA: krata,
        CONTAINERD: containerd}
PEERS = [UMOCI, TAR2SQFS, KRATA, CONTAINERD]


def sample(way, authority, input_):
    """All images of an input, one after another unless they are together."""
    if way == TOGETHER:
        with Scratch() as scratch:
            return together(authority, input_, scratch)
    total = Sample()
    for image in input_.images():
        with Scratch() as scratch:
            total.add(WAYS[way](authority, image, scratch))
    return total
