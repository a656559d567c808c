"""Debian's docker-registry on loopback, filled from image layouts.

In: layouts. Out: a server that runs until it is closed. Its own work is no
part of any sample.
"""

import http.client
import json
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    def __init__(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.authority = "127.0.0.1:%d" % probe.getsockname()[1]
        settings = {"version": "0.1", "log": {"level": "error", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
                    "http": {"addr": self.authority, "secret": "none"}}
        (directory / "config.yml").write_text(json.dumps(settings))
        log = open(directory / "log", "w")
        self.process = subprocess.Popen(["docker-registry", "serve", directory / "config.yml"],
                                        stdout=log, stderr=log)
        self.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def wait(self):
        for _ in range(200):
            try:
                self.request("GET", "/v2/")
                return
            except ConnectionError:
                time.sleep(0.05)
        raise SystemExit("docker-registry does not answer; see its log")

    def request(self, method, path, body=None, kind="application/octet-stream"):
        connection = http.client.HTTPConnection(self.authority)
        connection.request(method, path, body, {"content-type": kind, "accept": MANIFEST})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer

    def push(self, layout, name):
        """Puts a layout's only image there as NAME:latest, unless it is there."""
        index = json.loads((layout / "index.json").read_text())
        digest = index["manifests"][0]["digest"]
        if self.request("HEAD", f"/v2/{name}/manifests/{digest}").status == 200:
            return
        manifest = blob(layout, digest).read_bytes()
        described = json.loads(manifest)
        for descriptor in [described["config"], *described["layers"]]:
            self.upload(name, descriptor["digest"], blob(layout, descriptor["digest"]).read_bytes())
        answer = self.request("PUT", f"/v2/{name}/manifests/latest", manifest, MANIFEST)
        assert answer.status == 201, f"the registry refused {name}: {answer.status}"

    def upload(self, name, digest, content):
        place = self.request("POST", f"/v2/{name}/blobs/uploads/").getheader("location")
        url = urllib.parse.urlsplit(place)
        query = urllib.parse.urlencode({**dict(urllib.parse.parse_qsl(url.query)), "digest": digest})
        answer = self.request("PUT", f"{url.path}?{query}", content)
        assert answer.status == 201, f"the registry refused {digest}: {answer.status}"


def blob(layout, digest):
    return Path(layout) / "blobs" / digest.replace(":", "/")
