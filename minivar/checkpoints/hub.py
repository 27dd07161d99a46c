"""Published checkpoints by name: which files they are, and how they are opened, from a folder or from the Hub.

``huggingface_hub`` does the downloading: it keeps files in its cache, goes on where a download broke off, and
compares sizes and checksums. Without it, or without a network, the same files can lie in a folder. ``MODELS`` is the
table.
"""

import dataclasses
import zipfile
from dataclasses import dataclass
from pathlib import Path

from minivar.checkpoints.llamagen import WRAPPERS, from_llamagen_gpt, from_llamagen_tokenizer
from minivar.checkpoints.own import check_pair, load_pair
from minivar.checkpoints.published import shape_of
from minivar.checkpoints.start import load_any_pair
from minivar.checkpoints.var import from_var
from minivar.files import CheckpointError, State, read_state_dict
from minivar.models import GPT, VAR
from minivar.sampling import SETTINGS, RasterSamplingConfig, SamplingConfig
from minivar.scales import VAR_256, VAR_512, ScaleSchedule
from minivar.tokenizer import VQVAE

STRIDE = 16  # of all tokenizers in the table: pixels along a side of an image, for a token


@dataclass(frozen=True)
class PublishedModel:
    """A published pair: its two files, what is in them, and how images are drawn from it unless told otherwise."""

    name: str
    repository: str  # on huggingface.co
    files: tuple[str, str]  # of the tokenizer, of the transformer
    numbers: tuple[int, int]  # that each file holds at least
    shape: tuple[int, int]  # depth and width of the transformer
    pixels: int  # along a side of an image
    sampling: SamplingConfig | RasterSamplingConfig
    schedule: ScaleSchedule | None = None  # VAR's; None: in raster order
    text: bool = False  # whether it draws from captions, and not from the 1,000 classes of ImageNet
    licence: str = "MIT"  # of the code that the files were published with

    @property
    def grid(self) -> tuple[int, int]:
        """(h_K, w_K), of the latents."""
        return self.pixels // STRIDE, self.pixels // STRIDE

    @property
    def address(self) -> str:
        """The page from which the files can be fetched by hand."""
        return f"https://huggingface.co/{self.repository}"


def _var(name: str, file: str, numbers: int, depth: int, schedule: ScaleSchedule = VAR_256) -> PublishedModel:
    """A row of VAR (arXiv 2404.02905): the settings are those of the paper's FID."""
    return PublishedModel(
        name=name,
        repository="FoundationVision/var",
        files=("vae_ch160v4096z32.pth", file),
        numbers=(108_948_355, numbers),
        shape=(depth, 64 * depth),
        pixels=STRIDE * schedule.final_grid[0],
        sampling=SamplingConfig(),
        schedule=schedule,
    )


def _llamagen(size: str, pixels: int, numbers: int, shape: tuple[int, int], cfg: float) -> PublishedModel:
    """A row of LlamaGen (arXiv 2406.06525): the guidance is that of its best published FID, without filters."""
    return PublishedModel(
        name=f"llamagen-{size.lower()}-{pixels}",
        repository="FoundationVision/LlamaGen",
        files=("vq_ds16_c2i.pt", f"c2i_{size}_{pixels}.pt"),
        numbers=(71_883_403, numbers),
        shape=shape,
        pixels=pixels,
        sampling=RasterSamplingConfig(cfg=cfg),
    )


def _text(stage: int, pixels: int) -> PublishedModel:
    """A row of LlamaGen's models of captions, with the settings of its ``sample_t2i.py``."""
    return PublishedModel(
        name=f"llamagen-t2i-xl-{pixels}",
        repository="peizesun/llamagen_t2i",
        files=("vq_ds16_t2i.pt", f"t2i_XL_stage{stage}_{pixels}.pt"),
        numbers=(71_883_403, 777_923_840),
        shape=(36, 1280),
        pixels=pixels,
        sampling=RasterSamplingConfig(cfg=7.5, top_k=1000),
        text=True,
    )


# The names are those of the presets, where there is one. Numbers of parameters: constants, and statistics of the
# authors' trainers, which may be in a file or not, are left out.
MODELS: dict[str, PublishedModel] = {
    row.name: row
    for row in (
        _var("var-d16", "var_d16.pth", 310_283_520, 16),
        _var("var-d20", "var_d20.pth", 600_917_136, 20),
        _var("var-d24", "var_d24.pth", 1_033_399_360, 24),
        _var("var-d30", "var_d30.pth", 2_010_020_356, 30),
        _var("var-d36-s", "var_d36.pth", 2_353_893_904, 36, VAR_512),
        _llamagen("B", 256, 110_888_448, (12, 768), 2.0),
        _llamagen("L", 256, 342_910_976, (24, 1024), 1.75),
        _llamagen("B", 384, 110_888_448, (12, 768), 2.25),
        _llamagen("L", 384, 342_910_976, (24, 1024), 2.0),
        _llamagen("XL", 384, 774_699_520, (36, 1280), 1.75),
        _llamagen("XXL", 384, 1_410_972_672, (48, 1536), 1.75),
        _llamagen("3B", 384, 3_096_659_200, (24, 3200), 1.65),
        _text(1, 256),
        _text(2, 512),
    )
}


def find_published(name: str) -> PublishedModel:
    """The row of a published model; ``CheckpointError`` that lists what there is for any other name."""
    if name not in MODELS:
        raise CheckpointError(f"Unknown published model {name!r:.80}: expected one of {', '.join(MODELS)}.")
    return MODELS[name]


def open_published(
    model: str | PublishedModel, folder: Path | str | None = None, offline: bool | None = None
) -> tuple[VQVAE, VAR | GPT, dict]:
    """Tokenizer, transformer and what is known about them, as ``load_pair`` gives; in eval mode, in float32.

    ``model`` is a name of the table, or a row like those in it. ``folder`` holds its two files under their published
    names; without it they come from the Hub, or from the cache that earlier downloads filled. ``offline=True`` looks
    into the cache alone, ``None`` leaves that to the environment variable HF_HUB_OFFLINE. Raises ``CheckpointError``
    for files that are missing, cut off, of another model, or that do not belong together.
    """
    row = model if isinstance(model, PublishedModel) else find_published(model)
    paths = []
    for file, numbers in zip(row.files, row.numbers):
        path = _download(row, file, offline) if folder is None else _in_folder(row, file, Path(folder))
        check_whole(path, numbers)
        paths.append(path)
    tokenizer, transformer = _load_var(row, *paths) if row.schedule else _load_llamagen(row, *paths)
    found = (transformer.config.depth, transformer.config.width)
    if found != row.shape:
        raise CheckpointError(
            f"{paths[1]} is not the transformer of {row.name}: expected (depth, width) {row.shape}, got {found}."
        )
    header = {"preset": None if row.text else row.name, "published": row.name, "repository": row.repository}
    header |= {"licence": row.licence, "classes": None if row.text else "imagenet"}
    return tokenizer.float(), transformer.float(), {**header, "sampling": dataclasses.asdict(row.sampling)}


def open_folder(folder: Path | str) -> tuple[VQVAE, VAR | GPT, dict]:
    """The pair in a folder, minivar's own or published, of whatever size: its sizes are compared with no table.

    The settings, and the grid of a LlamaGen, are those of the published model whose file has the transformer's name.
    """
    folder = Path(folder)
    if (folder / "tokenizer.safetensors").is_file():
        return load_pair(folder)
    tokenizer, model, _ = load_any_pair(folder)
    rows = [row for row in MODELS.values() if (folder / row.files[1]).is_file()]
    row = rows[0] if len(rows) == 1 else None
    if isinstance(model, GPT) and row is not None:
        model.config = dataclasses.replace(model.config, grid=row.grid)
    check_pair(tokenizer.config, model.config, f" in {folder}")
    settings = SETTINGS[type(model.config)]() if row is None else row.sampling
    header = {"classes": "imagenet" if row is not None and not row.text else None}
    return tokenizer.float(), model.float(), {**header, "sampling": dataclasses.asdict(settings)}


# Where the files are ----------------------------------------------------------------------------------------------


def _in_folder(row: PublishedModel, file: str, folder: Path) -> Path:
    """A file that somebody has put into a folder; no network is asked."""
    if not (folder / file).is_file():
        what = f"{folder} has no {file}" if folder.is_dir() else f"There is no folder {folder}"
        raise CheckpointError(f"{what}: {row.name} is {' and '.join(row.files)}, expected both, from {row.address}.")
    return folder / file


def _download(row: PublishedModel, file: str, offline: bool | None) -> Path:
    """A file of the Hub, from the cache where it is there already."""
    by_hand = f"fetch {' and '.join(row.files)} from {row.address} and name their folder (--from DIR)"
    try:
        from huggingface_hub import hf_hub_download  # here, because it is an extra
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"To download {row.name} takes huggingface_hub, which is not installed: expected pip install "
            f"'minivar[hub]'; or {by_hand}."
        ) from error
    try:
        return Path(hf_hub_download(row.repository, file, library_name="minivar", local_files_only=bool(offline)))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{file} of {row.repository} is not in the cache, and the Hub cannot be reached or must not be asked: "
            f"expected a network; or {by_hand}."
        ) from error
    except Exception as error:  # the library and what it rests on raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"Could not download {file} of {row.repository} ({reason}): the same command goes on from there; or "
            f"{by_hand}."
        ) from error


def check_whole(path: Path, numbers: int) -> None:
    """Raise ``CheckpointError`` if a file cannot be all of one that holds so many numbers, or is damaged.

    Two bytes each is the least that is believed, since someone may have stored them in 16 bits. A file that was cut
    off further on has lost the directory that an archive of PyTorch ends with. Of each entry that archive has a
    checksum, which ``torch.load`` does not look at; to compare them all takes about a second for a gigabyte.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        is_archive = file.read(2) == b"PK"
    if size < 2 * numbers or (is_archive and not zipfile.is_zipfile(path)):
        raise CheckpointError(
            f"{path} is not whole: got {size:,} bytes, expected about {4 * numbers:,}; the download was cut off, so "
            "delete it and fetch it again."
        )
    if is_archive and (damaged := _damaged_entry(path)):
        raise CheckpointError(
            f"{path} is damaged: {damaged} in it has another content than its checksum says; delete the file and "
            "fetch it again."
        )


def _damaged_entry(path: Path) -> str | None:
    """The first entry of an archive that is not as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        return f"an entry ({error})"


# What is in them --------------------------------------------------------------------------------------------------


def _load_var(row: PublishedModel, *paths: Path) -> tuple[VQVAE, VAR]:
    vae_state = read_state_dict(paths[0], "trainer", "vae_local")
    var_state = read_state_dict(paths[1], "trainer", "var_wo_ddp")
    _check_codes(vae_state, var_state, paths)
    tokens = shape_of(var_state, "pos_1LC")[1]
    expected = row.schedule.num_tokens
    if tokens != expected:
        raise CheckpointError(
            f"{paths[1]} is not the transformer of {row.name}: expected {expected} tokens, got {tokens}."
        )
    return from_var(vae_state, var_state, row.schedule)


def _check_codes(vae_state: State, var_state: State, paths: tuple[Path, ...]) -> None:
    """Raise ``CheckpointError`` unless the transformer predicts, and reads, the codes of the tokenizer."""
    ours = shape_of(vae_state, "quantize.embedding.weight")
    theirs = (shape_of(var_state, "head.bias")[0], shape_of(var_state, "word_embed.weight")[1])
    if ours != theirs:
        raise CheckpointError(
            f"{paths[0]} and {paths[1]} do not belong together: (V, C) is {ours} in the tokenizer, and the "
            f"transformer expects {theirs}."
        )


def _load_llamagen(row: PublishedModel, *paths: Path) -> tuple[VQVAE, GPT]:
    tokenizer = from_llamagen_tokenizer(paths[0])
    model = from_llamagen_gpt(read_state_dict(paths[1], *WRAPPERS), grid=row.grid)
    where = f" ({paths[0]} and {paths[1]})"
    check_pair(tokenizer.config, model.config, where)
    if tokenizer.config.nets.stride != STRIDE:
        raise CheckpointError(
            f"Tokenizer and transformer{where} do not belong together: a token is {tokenizer.config.nets.stride} "
            f"pixels wide in the tokenizer, and the transformer expects {STRIDE}."
        )
    if bool(model.config.caption_tokens) != row.text:
        kinds = ("captions", "classes") if model.config.caption_tokens else ("classes", "captions")
        raise CheckpointError(
            f"{paths[1]} is not the transformer of {row.name}: it draws from {kinds[0]}, expected {kinds[1]}."
        )
    return tokenizer, model
