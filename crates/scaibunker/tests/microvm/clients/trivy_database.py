"""Writes a small vulnerability database for Trivy as an OCI layout: not Aqua's, which is hundreds of
megabytes, but one of its format with the one advisory that a test needs.

Usage: trivy_database.py LAYOUT PLATFORM PACKAGE FIXED_VERSION VULNERABILITY SEVERITY

The database is a bbolt file (https://github.com/etcd-io/bbolt, `page.go` and `bucket.go`): two meta
pages, a free list, and one leaf whose buckets are all inline. What is in it is described in
https://github.com/aquasecurity/trivy-db (schema version 2).
"""

import gzip
import hashlib
import io
import json
import os
import struct
import sys
import tarfile

PAGE = 4096
BRANCHLESS_LEAF, META, FREE_LIST = 0x02, 0x04, 0x10
BUCKET = 0x01


def leaf(entries):
    """Elements of a leaf page, in the order of their keys, without the page's header."""
    entries = sorted(entries)
    elements, data = b"", b""
    for index, (key, value, flags) in enumerate(entries):
        position = (len(entries) - index) * 16 + len(data)
        elements += struct.pack("<IIII", flags, position, len(key), len(value))
        data += key + value
    return len(entries), elements + data


def page(number, flags, count, body, overflow=0):
    return struct.pack("<QHHI", number, flags, count, overflow) + body


def bucket(content):
    """A bucket of `{name: text or bucket}` as it stands in its parent."""
    count, body = leaf(entries(content))
    return struct.pack("<QQ", 0, 0) + page(0, BRANCHLESS_LEAF, count, body)


def entries(content):
    for name, value in content.items():
        if isinstance(value, str):
            yield name.encode(), value.encode(), 0
        else:
            yield name.encode(), bucket(value), BUCKET


def fnv(data):
    hash = 0xCBF29CE484222325
    for byte in data:
        hash = (hash ^ byte) * 0x100000001B3 % 2**64
    return hash


def database(content):
    count, body = leaf(entries(content))
    pages = -(-(16 + len(body)) // PAGE)
    high_water = 3 + pages
    file = b""
    for number in (0, 1):
        meta = struct.pack(
            "<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, 3, 0, 2, high_water, number
        )
        meta += struct.pack("<Q", fnv(meta))
        file += page(number, META, 0, meta).ljust(PAGE, b"\0")
    file += page(2, FREE_LIST, 0, b"").ljust(PAGE, b"\0")
    root = page(3, BRANCHLESS_LEAF, count, body, pages - 1)
    return file + root.ljust(pages * PAGE, b"\0")


def archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(packed.getvalue())


def layout(directory, layer):
    os.makedirs(f"{directory}/blobs/sha256")

    def put(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{directory}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(b"{}", "application/vnd.aquasec.trivy.config.v1+json"),
        "layers": [put(layer, "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip")],
    }
    manifest["layers"][0]["annotations"] = {"org.opencontainers.image.title": "db.tar.gz"}
    manifest = put(json.dumps(manifest).encode(), manifest["mediaType"])
    with open(f"{directory}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [manifest]}, file)
    with open(f"{directory}/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)


def main(directory, platform, package, fixed_version, vulnerability, severity):
    source = {"ID": "debian", "Name": "a test", "URL": "https://debian.test"}
    content = {
        "data-source": {platform: json.dumps(source)},
        platform: {package: {vulnerability: json.dumps({"FixedVersion": fixed_version})}},
        "vulnerability": {
            vulnerability: json.dumps({"Title": "a fault for a test", "Severity": severity})
        },
    }
    times = {"NextUpdate": "2100-01-01T00:00:00Z", "UpdatedAt": "2026-01-01T00:00:00Z"}
    metadata = json.dumps({"Version": 2, **times, "DownloadedAt": "0001-01-01T00:00:00Z"})
    files = {"trivy.db": database(content), "metadata.json": metadata.encode()}
    layout(directory, archive(files))


main(*sys.argv[1:])
