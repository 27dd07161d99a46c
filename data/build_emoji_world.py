"""Builds data/emoji/: the things of Unicode's emoji as eight families of designers drew them, 64 x 64 pixels.

    python data/build_emoji_world.py FOLDER            # archives are looked for there, and fetched with `npm pack`
    python data/build_emoji_world.py FOLDER --check    # rebuilds in memory and compares with data/emoji/

Six of the sets are vector graphics, which resvg draws (`pip install resvg_py==0.5.0`; nothing else needs it); Pillow
decodes PNG files, which is lossless; everything after that is arithmetic on integers. data/EMOJI_WORLD.md describes
the result.
"""

import argparse
import hashlib
import io
import json
import lzma
import re
import sys
import tarfile
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from build_digits import BuildError, fetch, read_archive
from build_emoji import GROUPS, VERSION, base_of, is_heldout, read_package
from build_emoji import STYLES as PICTURES
from PIL import Image

OUTPUT = Path(__file__).resolve().parent / "emoji"
SIDE, FINE = 64, 256  # pixels of a picture, and of what resvg draws before blocks of 4 x 4 are averaged
RESVG = "0.5.0"
NAMES = ("emojibase-data@17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")


class Source(NamedTuple):
    """A style: the npm package that holds it and the sha256 of its archive."""

    package: str
    sha256: str


STYLES = {
    **{style: Source(f"emoji-datasource-{name}@{VERSION}", sha256) for style, (name, sha256) in PICTURES.items()},
    "openmoji": Source(
        "@iconify-json/openmoji@1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
    ),
    "fluent": Source(
        "@iconify-json/fluent-emoji@1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
    ),
    "fluent-flat": Source(
        "@iconify-json/fluent-emoji-flat@1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
    ),
    "noto-v1": Source(
        "@iconify-json/noto-v1@1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
    ),
    "emojione": Source(
        "@iconify-json/emojione@1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
    ),
    "fxemoji": Source(
        "@iconify-json/fxemoji@1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
}
# Icons whose names are not Unicode's, or are those of something else: the thing, or None, by set.
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KEYCAPS = {f"digit-{name}": f"3{number}-20E3" for number, name in enumerate(DIGITS)}
ALIASES = {
    "noto-v1": {**KEYCAPS, "exclamation-mark": "2757"},
    "emojione": {
        **KEYCAPS,
        "a-button": "1F170",
        "b-button": "1F171",
        "ab-button": "1F18E",
        "exclamation-mark": "2757",
        "flag-for-black-flag": "1F3F4",
        "flag-for-chequered-flag": "1F3C1",
        "flag-for-crossed-flags": "1F38C",
    },
    "fxemoji": {
        **{f"clock{hour}oclock": f"{0x1F54F + hour:X}" for hour in range(1, 13)},
        **{f"clock{hour}thirty": f"{0x1F55B + hour:X}" for hour in range(1, 13)},
        "aok": "1F44C",
        "astonished": None,
        "bouquetofflowers": "1F490",
        "bow": "1F380",
        "bowing": "1F647",
        "bride": "1F470",
        "cat": "1F431",
        "catside": "1F408",
        "cellphone": "1F4F1",
        "chilipepper": "1F336",
        "chineseflag": "1F1E8-1F1F3",
        "crying": "1F622",
        "dog": "1F436",
        "dogside": "1F415",
        "down": "1F447",
        "dragonhead": "1F432",
        "dragonside": "1F409",
        "evergreen": "1F332",
        "franceflag": "1F1EB-1F1F7",
        "greatbritainflag": "1F1EC-1F1E7",
        "hampster": "1F439",
        "heartarrow": "1F498",
        "heartblue": None,
        "heartgreen": "1F49A",
        "heartpurple": "1F49C",
        "heartyellow": "1F49B",
        "heels": "1F460",
        "italianflag": "1F1EE-1F1F9",
        "japanflag": "1F1EF-1F1F5",
        "keyboard": None,
        "koreaflag": "1F1F0-1F1F7",
        "leopardside": "1F406",
        "loudlycrying": "1F62D",
        "mensshoe": "1F45E",
        "monkeyhear": "1F649",
        "monkeysee": "1F648",
        "monkeyspeak": "1F64A",
        "mouse": "1F42D",
        "mouseside": "1F401",
        "pig": "1F437",
        "pigside": "1F416",
        "pigsnout": "1F43D",
        "potablewatersystem": "1F6B0",
        "pout": "1F64E",
        "pouting": "1F621",
        "present": "1F381",
        "russianflag": "1F1F7-1F1FA",
        "saggitarius": "2650",
        "screamfear": "1F631",
        "spanishflag": "1F1EA-1F1F8",
        "spurtingwhale": "1F433",
        "tennisball": "1F3BE",
        "tiger": "1F42F",
        "tigerside": "1F405",
        "tongueout": "1F61B",
        "tongueoutwink": "1F61C",
        "up": "1F446",
        "wave": "1F30A",
        "waving": "1F44B",
        "window": None,
        "winking": "1F609",
    },
}
PARTS = ("train", "validation", "heldout", "validation-pairs", "heldout-pairs")  # by number in things.json


# Things -------------------------------------------------------------------------------------------------------------


def simple(name: str) -> str:
    """A name without case, accents and punctuation: "flag: Åland Islands" -> "flagalandislands"."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("&", "and"))
    return re.sub("[^a-z0-9]", "", plain)


def bare(code: str) -> str:
    """Code points without the selector that asks for colour, which some sets write and others do not."""
    return code.upper().replace("-FE0F", "")


def read_things(tgz: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """Every emoji without skin tones by code points, in Unicode's order; and the code points of every name.

    Labels come before short names, and those before the names of characters, where two emoji share a name.
    """
    members = read_members(tgz, *NAMES, r"package/(en/(data|shortcodes/\w+|shortcodes/cldr-native)|meta/\S+)\.json")
    listing = sorted((e for e in members["en/data.json"] if e.get("group", 2) != 2), key=lambda e: e["order"])
    groups = members["meta/groups.json"]
    kept = [number for number in groups["groups"] if number != "2"]  # "component", swatches of skin and hair
    things, names = {}, {}
    for entry in listing:
        code = bare(entry["hexcode"])
        things[code] = {
            "id": code,
            "name": entry["label"],
            "keywords": entry["tags"],
            "group": kept.index(str(entry["group"])),
            "subgroup": groups["subgroups"][str(entry["subgroup"])],
            "base": base_of(code),
            "version": entry["version"],
        }
        names.setdefault(simple(entry["label"]), code)
    shortcodes = [value for key, value in sorted(members.items()) if key.startswith("en/shortcodes")]
    for table in [*shortcodes, members["meta/unicode-names.json"]]:
        for code, found in table.items():
            for name in [found] if isinstance(found, str) else found:
                if bare(code) in things:
                    names.setdefault(simple(name), bare(code))
    return things, names


def read_members(tgz: Path, package: str, sha256: str, pattern: str) -> dict[str, object]:
    """The JSON files of an archive whose names match, by name within the package."""
    content, found = read_archive(tgz, package, sha256), {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if re.fullmatch(pattern, member.name):
                found[member.name.removeprefix("package/")] = json.load(archive.extractfile(member))
    return found


# Drawings -----------------------------------------------------------------------------------------------------------


def read_icons(folder: Path, style: str, names: dict[str, str], codes: dict[str, str]) -> dict[str, str]:
    """SVG files of a set of icons, by code points. ``codes``: those of a set with the same names, if one has them."""
    source, aliases = STYLES[style], ALIASES.get(style, {})
    tgz = archive_of(folder, source.package)
    members = read_members(tgz, source.package, source.sha256, r"package/(icons|chars)\.json")
    icons, known = members["icons.json"], {**codes, **{name: code for code, name in members["chars.json"].items()}}
    found, codes_of_things = {}, set(names.values())
    parents = {alias: entry["parent"] for alias, entry in icons.get("aliases", {}).items() if len(entry) == 1}
    for name in [*icons["icons"], *parents]:
        code = bare(known.get(name, ""))
        if code not in codes_of_things:
            code = names.get(simple(re.sub("^flag-for-(flag-)?", "flag-", name)))
        code = aliases.get(name, code)
        if code:
            found.setdefault(code, svg_of(icons, icons["icons"][parents.get(name, name)]))
    return found


def svg_of(icons: dict, icon: dict) -> str:
    """An icon as a file of its own, in the middle of a square."""
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    side = max(width, height)
    left, top = icon.get("left", 0) - (side - width) / 2, icon.get("top", 0) - (side - height) / 2
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} width="{side}" height="{side}" viewBox="{left} {top} {side} {side}">{icon["body"]}</svg>'


def draw_svg(svg: str) -> np.ndarray:
    """Drawn large, laid on white, averaged: uint8 (64, 64, 3)."""
    import resvg_py

    return draw_png(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=FINE, height=FINE, skip_system_fonts=True)))


def draw_png(png: bytes) -> np.ndarray:
    """A PNG file of 64 x 64 or 256 x 256 pixels on white, blocks averaged, to multiples of 4: uint8 (64, 64, 3).

    No eye sees the last two bits, and a quarter of the compressed file goes to them. White stays white.
    """
    with Image.open(io.BytesIO(png)) as file:
        rgba = np.asarray(file.convert("RGBA"), dtype=np.int64)
    block = rgba.shape[0] // SIDE
    if rgba.shape != (block * SIDE, block * SIDE, 4):
        raise BuildError(f"a drawing is {rgba.shape[1]} x {rgba.shape[0]} pixels; expected 64 x 64 or 256 x 256.")
    alpha = rgba[..., 3:]
    on_white = rgba[..., :3] * alpha + 255 * (255 - alpha)  # 255 times the colour
    total = on_white.reshape(SIDE, block, SIDE, block, 3).sum(axis=(1, 3))
    colour = (total + 255 * block**2 // 2) // (255 * block**2)
    return np.where(colour > 253, 255, (colour + 2) // 4 * 4).clip(0, 255).astype(np.uint8)


def read_pictures(tgz: Path, style: str, things: dict[str, dict]) -> dict[str, bytes]:
    """PNG files of a package of emoji-data, by code points, without skin tones."""
    listing, files = read_package(tgz, style)
    found = {bare(emoji["unified"]): files[emoji["image"]] for emoji in listing if emoji["image"] in files}
    return {code: png for code, png in found.items() if code in things}


def draw_style(style: str, folder: Path, things: dict[str, dict], names: dict[str, str]) -> dict[str, np.ndarray]:
    """All drawings of a style by code points, in Unicode's order, but for copies."""
    source = STYLES[style]
    if style in PICTURES:
        pictures, draw = read_pictures(archive_of(folder, source.package), style, things), draw_png
    else:
        codes = {}
        if style == "fluent":  # the flat set draws the same icons, and says which characters they are
            flat = STYLES["fluent-flat"]
            members = read_members(
                archive_of(folder, flat.package), flat.package, flat.sha256, r"package/chars\.json"
            )
            codes = {name: code for code, name in members["chars.json"].items()}
        pictures, draw = read_icons(folder, style, names, codes), draw_svg
    codes = [code for code in things if code in pictures]
    with ProcessPoolExecutor() as pool:
        drawn = dict(zip(codes, pool.map(draw, [pictures[code] for code in codes], chunksize=32), strict=True))
    return without_copies(drawn, things)


def without_copies(drawn: dict[str, np.ndarray], things: dict[str, dict]) -> dict[str, np.ndarray]:
    """Keeps one of equal drawings: the base emoji's, else the oldest, else the first; and none that is blank."""
    kept: dict[bytes, tuple] = {}
    for order, (code, image) in enumerate(drawn.items()):
        rank = (code != things[code]["base"], things[code]["version"], order, code)
        pixels = image.tobytes()
        if image.min() < 255 and (pixels not in kept or rank < kept[pixels]):
            kept[pixels] = rank
    chosen = {rank[-1] for rank in kept.values()}
    return {code: image for code, image in drawn.items() if code in chosen}


def archive_of(folder: Path, package: str) -> Path:
    """The archive of a package in ``folder``, fetched if it is not there."""
    name, version = package.rsplit("@", 1)
    path = folder / f"{name.replace('@', '').replace('/', '-')}-{version}.tgz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        empty = folder / f"{path.stem}.fetch"
        empty.mkdir(exist_ok=True)
        fetch(str(empty), package).rename(path)
        empty.rmdir()
    return path


# Splits -------------------------------------------------------------------------------------------------------------


def tenth(text: str) -> int:
    """0 to 9, by a hash."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10


def parts_of(drawings: dict[str, dict[str, np.ndarray]], things: dict[str, dict]) -> dict[str, list[int]]:
    """Of every drawing of every style its place in ``PARTS``.

    Things come first: one base emoji in ten is held out in all styles, and of the others one in ten is for
    validation. Of what is left, a base emoji is held out in one style in twenty, and for validation in another,
    unless fewer than two of its styles would then be left to learn from.
    """
    styles_of: dict[str, list[str]] = {}
    for style, drawn in drawings.items():
        for code in drawn:
            styles = styles_of.setdefault(things[code]["base"], [])
            if style not in styles:
                styles.append(style)
    place = {}
    for base, styles in styles_of.items():
        whole = 2 if is_heldout(base) else 1 if tenth(f"validation {base}") == 0 else 0
        # half of one tenth is held out and half of it is for validation
        pairs = {
            style: 3 + tenth(f"half {base} {style}") % 2 for style in styles if not tenth(f"pair {base} {style}")
        }
        learned = len(styles) - len(pairs)
        for style in styles:
            place[base, style] = whole or (pairs.get(style, 0) if learned >= 2 else 0)
    return {style: [place[things[code]["base"], style] for code in drawn] for style, drawn in drawings.items()}


# Files --------------------------------------------------------------------------------------------------------------


def build(folder: Path) -> dict[str, bytes]:
    """The files of data/emoji/, images not yet compressed, by name."""
    things, names = read_things(archive_of(folder, NAMES[0]))
    drawings = {}
    for style in STYLES:
        drawings[style] = draw_style(style, folder, things, names)
        print(f"{style}: {len(drawings[style])} drawings", file=sys.stderr, flush=True)
    parts = parts_of(drawings, things)
    drawn = [code for code in things if any(code in found for found in drawings.values())]
    number = {code: i for i, code in enumerate(drawn)}
    listing = {
        "groups": GROUPS,
        "parts": PARTS,
        "styles": {
            style: {"things": [number[code] for code in found], "parts": "".join(map(str, parts[style]))}
            for style, found in drawings.items()
        },
        "things": [{key: value for key, value in things[code].items() if key != "version"} for code in drawn],
    }
    files = {"things.json": to_json(listing)}
    for style, found in drawings.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.stack(list(found.values())), version=(1, 0), allow_pickle=False)
        files[f"{style}.npy"] = buffer.getvalue()
    return files


def to_json(listing: dict) -> bytes:
    """One line a thing, so that it can be read and compared."""
    lines = [f'"{key}": {json.dumps(listing[key], ensure_ascii=False)}' for key in ("groups", "parts", "styles")]
    rows = ",\n".join(json.dumps(thing, ensure_ascii=False) for thing in listing["things"])
    return ("{" + ",\n".join(lines) + f',\n"things": [\n{rows}\n]' + "}\n").encode()


def compress(content: bytes) -> bytes:
    """xz, with a dictionary that holds a whole style: faces and people repeat one another."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**26, "lc": 0, "pb": 0}]
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def check(files: dict[str, bytes]) -> str:
    """Compares with the committed files, and returns a sentence."""
    for name, content in files.items():
        path = OUTPUT / (f"{name}.xz" if name.endswith(".npy") else name)
        if not path.is_file():
            raise BuildError(f"{path} does not exist; run this script without --check to make it.")
        found = path.read_bytes()
        if name.endswith(".npy"):
            if compress(content) == found:
                continue
            found = lzma.decompress(found)
        if found != content:
            raise BuildError(f"{path.name} differs from what the packages give.")
    return f"data/emoji/ is what the packages give, {len(files)} files."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the packages' archives are, or are to be put (250 MB)")
    parser.add_argument("--check", action="store_true", help="compare with data/emoji/ and write nothing")
    args = parser.parse_args()
    try:
        from importlib.metadata import version

        if version("resvg_py") != RESVG:
            raise BuildError(f"resvg_py {RESVG} draws these pictures; found {version('resvg_py')}.")
        files = build(args.folder)
        if args.check:
            print(check(files))
            return
    except ImportError:
        sys.exit(f"build_emoji_world: resvg_py is missing; `pip install resvg_py=={RESVG}` first.")
    except BuildError as error:
        sys.exit(f"build_emoji_world: {error}")
    OUTPUT.mkdir(exist_ok=True)
    for name, content in files.items():
        packed = compress(content) if name.endswith(".npy") else content
        (OUTPUT / (f"{name}.xz" if name.endswith(".npy") else name)).write_bytes(packed)
        print(f"{name}: {len(packed)} bytes, content sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
