"""Builds data/emoji.npz, two drawings of every emoji, from two npm packages of version 16.0.0:
`emoji-datasource-google`, which holds Noto Emoji, and `emoji-datasource-twitter`, which holds Twemoji.

    python data/build_emoji.py                             # fetches both packages with `npm pack`
    python data/build_emoji.py GOOGLE.tgz TWITTER.tgz      # uses copies that are already here
    python data/build_emoji.py --check [TGZ TGZ]           # rebuilds in memory and compares with data/emoji.npz

Pillow only decodes the packages' PNG files, which is lossless; everything after that is arithmetic on integers, so
the output depends on nothing but the packages. data/EMOJI.md describes the result.
"""

import argparse
import hashlib
import io
import json
import re
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from build_digits import BuildError, check, fetch, npy_members, read_archive, to_npz
from PIL import Image

VERSION = "16.0.0"
# Each style, the name of its set inside its package, and the sha256 of the package's archive.
STYLES = {
    "noto": ("google", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"),
    "twemoji": ("twitter", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"),
}
OUTPUT = Path(__file__).resolve().parent / "emoji.npz"
SIDE = 32
# Of the members of emoji.npz, one after the other.
CONTENT_SHA256 = "3152fc600d4b5ccac1aec14819d931cdcd9c80acd3d8bfea46939a012771ba84"
# Unicode's groups in Unicode's order, but for Component, which holds swatches of skin.
GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
# One base emoji in ten is held out, by a hash of its code point and this number: the smallest under which 9 to 11 %
# of all images, 8 to 12 % of those of each group and at most half of those of each subgroup are held out, and no
# base emoji is more than a quarter of what is held out of its group.
SALT = 260

# What counts as the same emoji, beyond skin tone, gender sign and direction, and so shares a side of the split.
# Man, woman and person of one age or role, by code point:
NEUTRAL = {
    **dict.fromkeys(("1F468", "1F469", "1F471"), "1F9D1"),  # adult, blond or not
    **dict.fromkeys(("1F466", "1F467"), "1F9D2"),  # child
    **dict.fromkeys(("1F474", "1F475"), "1F9D3"),  # older adult
    **dict.fromkeys(("1F934", "1F478"), "1FAC5"),  # prince, princess: person with crown
    **dict.fromkeys(("1F930", "1FAC3"), "1FAC4"),  # pregnant
    "1F57A": "1F483",  # dancer
    "1F64E": "1F64D",  # pouting: Twemoji draws it almost as frowning
}
# The same for sequences, once their code points are neutral:
NEUTRAL_SEQUENCES = {
    **dict.fromkeys(("1F385", "1F936"), "1F9D1-1F384"),  # Christmas
    **dict.fromkeys(("1F46B", "1F46C", "1F46D"), "1F9D1-1F91D-1F9D1"),  # holding hands
    "1F9D1-2764-1F48B-1F9D1": "1F48F",  # kiss
    "1F9D1-2764-1F9D1": "1F491",  # couple with heart
}
# Territories that fly the flag of another (Bouvet Island that of Norway), by region code:
SAME_FLAG = {"BV": "NO", "SJ": "NO", "HM": "AU", "CP": "FR", "MF": "FR", "UM": "US", "EA": "ES", "DG": "IO"}


def flag(country: str) -> str:
    """The code points of a country's flag: "NO" -> "1F1F3-1F1F4"."""
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):X}" for letter in country)


def base_of(unified: str) -> str:
    """The base emoji of an emoji without skin tone: "1F469-200D-1F33E", woman farmer -> "1F9D1-1F33E", farmer."""
    first, *rest = unified.replace("-FE0F", "").split("-200D-")
    parts = [first, *(part for part in rest if part not in ("2640", "2642", "27A1"))]
    base = "-".join(NEUTRAL.get(part, part) for part in parts)
    if re.fullmatch("1F9D1(-1F9D[12])+", base):
        return "1F46A"  # adults and children: family
    base = re.sub("^1F9D1-1F9B[0-3]$", "1F9D1", base)  # an adult's hair
    flags = {flag(country): flag(same) for country, same in SAME_FLAG.items()}
    return {**NEUTRAL_SEQUENCES, **flags}.get(base, base)


def is_heldout(base: str, salt: int = SALT) -> bool:
    """Whether the base emoji is held out: a property of its own, whatever else the data hold."""
    return int(hashlib.sha256(f"{salt} {base}".encode()).hexdigest(), 16) % 10 == 0


def read_package(tgz: Path, style: str) -> tuple[list[dict], dict[str, bytes]]:
    """Returns the emoji that the package lists, in Unicode's order, and its 64 x 64 PNG files by name."""
    name, expected = STYLES[style]
    content = read_archive(tgz, f"emoji-datasource-{name}@{VERSION}", expected)
    folder, listing, files = f"package/img/{name}/64/", None, {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if member.name == "package/emoji.json":
                listing = json.load(archive.extractfile(member))
            elif member.name.startswith(folder):
                files[member.name.removeprefix(folder)] = archive.extractfile(member).read()
    return sorted(listing, key=lambda emoji: emoji["sort_order"]), files


def draw(png: bytes) -> np.ndarray:
    """A 64 x 64 PNG file, laid on white, with each block of 2 x 2 pixels averaged: uint8 (32, 32, 3).

    Sharper filters (Lanczos, bicubic) leave dark rings on the white around a drawing, and noise in its flat areas,
    which a tokenizer would have to spend codes on; at a factor of two the mean is hardly softer.
    """
    with Image.open(io.BytesIO(png)) as file:
        rgba = np.asarray(file.convert("RGBA"), dtype=np.int64)
    if rgba.shape != (64, 64, 4):
        raise BuildError(f"a drawing is {rgba.shape[1]} x {rgba.shape[0]} pixels; expected 64 x 64.")
    alpha = rgba[..., 3:]
    on_white = rgba[..., :3] * alpha + 255 * (255 - alpha)  # 255 times the colour
    total = on_white.reshape(SIDE, 2, SIDE, 2, 3).sum(axis=(1, 3))
    return ((total + 2 * 255) // (4 * 255)).astype(np.uint8)


def list_images(style: str, listing: list[dict], files: dict[str, bytes]) -> list[dict]:
    """One record an image: every emoji but the components, each followed by its skin tones."""
    records = []
    for emoji in listing:
        if emoji["category"] == "Component":
            continue
        for drawn in (emoji, *emoji.get("skin_variations", {}).values()):
            records.append(
                {
                    "image": draw(files[drawn["image"]]),
                    "style": style,
                    "unified": drawn["unified"],
                    "base": base_of(emoji["unified"]),
                    "age": tuple(int(part) for part in drawn["added_in"].split(".")),
                    **{key: emoji[key] for key in ("category", "subcategory", "short_name", "name")},
                }
            )
    return records


def without_copies(records: list[dict]) -> list[dict]:
    """Keeps one of the records with the same image: that of the base emoji, else the oldest, else the first."""
    kept = {}
    for record in records:
        pixels = record["image"].tobytes()
        rank = (record["unified"] != record["base"], record["age"])
        if pixels not in kept or rank < kept[pixels][0]:
            kept[pixels] = (rank, record)
    chosen = {id(record) for _, record in kept.values()}
    return [record for record in records if id(record) in chosen]


def build(archives: list[Path]) -> dict[str, np.ndarray]:
    """Returns the arrays of emoji.npz: first the images of one style, then those of the other, in Unicode's order."""
    records = []
    for tgz, style in zip(archives, STYLES):
        records += list_images(style, *read_package(tgz, style))
    records = without_copies(records)
    groups = list(dict.fromkeys(record["category"] for record in records))
    if groups != list(GROUPS):
        raise BuildError(f"the package's groups are {', '.join(groups)}; expected {', '.join(GROUPS)}.")
    subgroups = list(dict.fromkeys(record["subcategory"] for record in records))
    styles = list(STYLES)

    def column(key: str, names: list[str] | None = None) -> np.ndarray:
        values = [record[key] for record in records]
        return np.array([names.index(value) for value in values], np.uint8) if names else np.array(values)

    return {
        "images": column("image"),
        "group": column("category", groups),
        "subgroup": column("subcategory", subgroups),
        "style": column("style", styles),
        "heldout": np.array([is_heldout(record["base"]) for record in records]),
        "unified": column("unified"),
        "base": column("base"),
        "short_name": column("short_name"),
        "name": column("name"),
        "group_names": np.array(groups),
        "subgroup_names": np.array(subgroups),
        "style_names": np.array(styles),
    }


def verify(members: dict[str, bytes]) -> None:
    """Raises ``BuildError`` unless the members are those that data/EMOJI.md describes."""
    digest = hashlib.sha256(b"".join(members.values())).hexdigest()
    if digest != CONTENT_SHA256:
        raise BuildError(
            f"the arrays have sha256 {digest}, expected {CONTENT_SHA256}: the packages are the right ones, so this "
            "script was changed, or this Pillow decodes PNG files otherwise; nothing was written."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tgz", nargs="*", type=Path, help="both archives, Google's first; left out, npm fetches them")
    parser.add_argument("--check", action="store_true", help="compare with data/emoji.npz and write nothing")
    args = parser.parse_args()
    if len(args.tgz) not in (0, len(STYLES)):
        parser.error(f"expected two archives or none, got {len(args.tgz)}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            archives = args.tgz
            for name, _ in () if archives else STYLES.values():
                (Path(folder) / name).mkdir()
                archives.append(fetch(str(Path(folder) / name), f"emoji-datasource-{name}@{VERSION}"))
            arrays = build(archives)
        members = npy_members(arrays)
        verify(members)
        if args.check:
            print(check(members, OUTPUT))
            return
    except BuildError as error:
        sys.exit(f"build_emoji: {error}")
    content = to_npz(members)
    OUTPUT.write_bytes(content)
    print(f"{OUTPUT.name}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    for number, group in enumerate(GROUPS):
        of_group = arrays["group"] == number
        print(f"  {group}: {of_group.sum()} images, {(of_group & arrays['heldout']).sum()} held out")


if __name__ == "__main__":
    main()
