"""Draw the picture at the top of README.md with the shipped checkpoints: data/figures/scale_by_scale.png.

python data/build_figures.py
"""

import torch

from minivar import checkpoints, data, plots, sampler


def main() -> None:
    tokenizer, model, header = checkpoints.load_pair(data.DATA_ROOT / "checkpoints" / "digits")
    settings = {**header["sampling"], "generator": torch.Generator().manual_seed(3)}
    states = sampler.sample_scales(model, tokenizer.quantizer, torch.arange(10), **settings)
    rows = [plots.to_unit(x) for x in tokenizer.decode_pyramid([state.tokens_Bl for state in states])]
    names = [f"{h} x {w}" for h, w in tokenizer.schedule.grids]
    figure = plots.image_grid(plots.stack_rows(rows), "", columns=10, row_titles=names)
    plots.save_figure(figure, data.DATA_ROOT / "figures" / "scale_by_scale.png")


if __name__ == "__main__":
    main()
