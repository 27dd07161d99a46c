"""The shipped digit models as ONNX graphs, for the site's first page: ``python -m docs.export_onnx FOLDER``.

A graph is one step of a drawing: what the model makes of new tokens, given the keys and values of earlier ones. The
loop around it (guidance, filters, draws, the sum f_hat) is not in the graphs but in ``docs/live/*.js``, which reads
like the book. ``tokenizer.json`` holds what that loop adds up: codebook, convolutions phi, resizing matrices.
``tests/test_site_export.py`` holds the graphs to PyTorch.
"""

import argparse
import gzip
import json
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from minivar import checkpoints
from minivar.data import DATA_ROOT
from minivar.models import GPT, VAR
from minivar.tokenizer import VQVAE
from minivar.tokenizer.resizing import averaged, enlarged

SCALES, RASTER = "digits", "duel-llamagen"  # the two checkpoints that draw side by side


class Past:
    """The cache of one layer as the graph sees it: what comes in is joined to what is new, and goes out again."""

    def __init__(self, keys_BHpE: Tensor, values_BHpE: Tensor) -> None:
        self.keys, self.values = keys_BHpE, values_BHpE

    def append(self, keys_BHlE: Tensor, values_BHlE: Tensor) -> tuple[Tensor, Tensor]:
        """As ``sampling.kv_cache.KVCache.append``."""
        self.keys = torch.cat([self.keys, keys_BHlE], dim=2)
        self.values = torch.cat([self.values, values_BHlE], dim=2)
        return self.keys, self.values


def joined(caches: list[Past]) -> tuple[Tensor, Tensor]:
    """All layers' keys and values, (layers, B, H, p + l, E) each."""
    return torch.stack([cache.keys for cache in caches]), torch.stack([cache.values for cache in caches])


class ScaleStep(nn.Module):
    """One scale of VAR: labels (B,), inputs (B, l, C), positions (l,), past -> logits (B, l, V), past and present.

    The first scale reads the class alone: its position is 0, and its ``inputs`` are not looked at.
    """

    def __init__(self, model: VAR) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("levels_L", model.schedule.level_ids("cpu"))

    def forward(self, labels: Tensor, inputs: Tensor, positions: Tensor, keys: Tensor, values: Tensor):
        model = self.model
        cond_BD, cond_blocks = model.condition(labels)
        first = (positions < model.schedule.counts[0])[None, :, None]
        x_BlD = torch.where(first, cond_BD[:, None] + model.start_1lD[:, :1], model.word_embed(inputs))
        x_BlD = x_BlD + (model.level_embed(self.levels_L[positions]) + model.position_1LD[0, positions])
        caches = [Past(k, v) for k, v in zip(keys, values)]
        for block, cache in zip(model.blocks, caches):
            x_BlD = block(x_BlD, cond_blocks, None, cache)
        return model.logits(x_BlD, cond_BD), *joined(caches)


class TokenStep(nn.Module):
    """One token of a GPT: labels (B,), tokens (B,), positions (B,), past -> logits (B, V), past and present.

    Position 0 is the class, and its ``tokens`` are not looked at; position n is token n, which predicts token n + 1.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, tokens: Tensor, positions: Tensor, keys: Tensor, values: Tensor):
        model = self.model
        first = (positions == 0)[:, None]
        x_BD = torch.where(first, model.class_embed(labels), model.token_embed(tokens))
        context = model.context(labels, model.config.grid)
        caches = [Past(k, v) for k, v in zip(keys, values)]
        hidden_B1D = model.hidden(x_BD[:, None], positions, model.config.grid, caches, context)
        return model.logits(hidden_B1D, context)[:, 0], *joined(caches)


class Decode(nn.Module):
    """Features (N, C, h, w) -> images (N, 1, H, W) in [0, 1]."""

    def __init__(self, tokenizer: VQVAE) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, features: Tensor) -> Tensor:
        return (self.tokenizer.decode_features(features).clamp(-1, 1) + 1) / 2


def empty_past(model: VAR | GPT, batch: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values of ``length`` earlier tokens, all zeros: (layers, B, H, length, E) each."""
    config = model.config
    shape = (config.depth, batch, config.heads, length, config.width // config.heads)
    return torch.zeros(shape), torch.zeros(shape)


def write_graph(path: Path, module: nn.Module, inputs: dict[str, Tensor], axes: dict[str, dict[int, str]]) -> None:
    """``module`` as an ONNX file; ``axes`` names the dimensions that may differ from those of ``inputs``."""
    outputs = ["images"] if "features" in inputs else ["logits", "new_keys", "new_values"]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes={name: axes.get(name) for name in inputs},
            dynamo=True,
            verbose=False,
        )
    program.save(str(path))


def export(folder: Path) -> None:
    """``scales.onnx``, ``raster.onnx``, their two decoders and ``tokenizer.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    batch, new, past = "batch", "new", "past"
    cached = {name: {1: batch, 3: past} for name in ("keys", "values")}

    tokenizer, var, header = checkpoints.load_pair(DATA_ROOT / "checkpoints" / SCALES)
    keys, values = empty_past(var, 2, 5)
    inputs = {"labels": torch.tensor([3, 10]), "inputs": torch.zeros(2, 9, var.config.code_dim)}
    inputs |= {"positions": torch.arange(5, 14), "keys": keys, "values": values}
    axes = {"labels": {0: batch}, "inputs": {0: batch, 1: new}, "positions": {0: new}, **cached}
    write_graph(folder / "scales.onnx", ScaleStep(var), inputs, axes)
    write_decoder(folder / "scales-decoder.onnx", tokenizer)

    raster_tokenizer, gpt, raster_header = checkpoints.load_pair(DATA_ROOT / "checkpoints" / RASTER)
    keys, values = empty_past(gpt, 2, 5)
    inputs = {"labels": torch.tensor([3, 10]), "tokens": torch.tensor([7, 7]), "positions": torch.tensor([5, 5])}
    axes = {name: {0: batch} for name in inputs} | cached
    write_graph(folder / "raster.onnx", TokenStep(gpt), inputs | {"keys": keys, "values": values}, axes)
    write_decoder(folder / "raster-decoder.onnx", raster_tokenizer)

    described = {
        "scales": shape_of(var) | pyramid(tokenizer) | {"sampling": header["sampling"]},
        "raster": shape_of(gpt) | {"codebook": listed(raster_tokenizer.quantizer.codes)},
    }
    described["raster"] |= {"grid": list(gpt.config.grid), "sampling": raster_header["sampling"]}
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")


def write_decoder(path: Path, tokenizer: VQVAE) -> None:
    """The decoder's graph, for any number of images."""
    features = torch.zeros(2, tokenizer.config.code_dim, *tokenizer.config.latent_grid)
    write_graph(path, Decode(tokenizer), {"features": features}, {"features": {0: "batch"}})


def shape_of(model: VAR | GPT) -> dict:
    """What the caches' shape and the null class need."""
    config = model.config
    names = {"depth": config.depth, "heads": config.heads, "classes": config.num_classes}
    return names | {"codes": config.codebook_size, "head_width": config.width // config.heads}


def pyramid(tokenizer: VQVAE) -> dict:
    """What a multi-scale quantiser adds up: codes, the phi of each scale, and the matrices between the grids."""
    quantizer = tokenizer.quantizer
    grids, final = quantizer.schedule.grids, quantizer.schedule.final_grid
    cells = [torch.eye(rows * columns).view(-1, 1, rows, columns) for rows, columns in grids]
    return {
        "codebook": listed(quantizer.codes),
        "grids": [list(grid) for grid in grids],
        "phi_ratio": tokenizer.config.phi_ratio,
        "phis": [
            {"weight": listed(phi.conv.weight), "bias": listed(phi.conv.bias)}
            for phi in (quantizer.phis[i] for i in quantizer.phi_of_scale)
        ],
        "enlarge": [listed(enlarged(eye, final).flatten(1)) for eye in cells],  # (h_k w_k, h w)
        "average": [listed(averaged(cells[-1], grid).flatten(1)) for grid in grids],  # (h w, h_k w_k)
    }


def listed(numbers: Tensor) -> list:
    """A tensor as nested lists of the shortest decimals that give its float32 numbers again."""
    rounded = torch.tensor([float(f"{x:.9g}") for x in numbers.detach().flatten().tolist()], dtype=torch.float64)
    return rounded.view(numbers.shape).tolist()


def packed(folder: Path) -> None:
    """Each file of ``folder`` as FILE.gz in its place: the page unpacks it, whatever the server can do."""
    for path in sorted(folder.iterdir()):
        if path.suffix != ".gz":
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    export(folder)
    packed(folder)
    for path in sorted(folder.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
