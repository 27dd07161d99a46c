"""Draw a class, scale by scale, and move guidance and filters; below, one distribution that they reshape."""

import ipywidgets
import torch
from matplotlib.figure import Figure

from minivar import sampling
from minivar.book import plots
from minivar.book.explorers.base import Explorer, choice, class_options, slider
from minivar.models import VAR
from minivar.tokenizer import VQVAE


class Sampling(Explorer):
    """One picture of a class, and the distribution over the codes of one cell of one scale.

    Values: ``label``, ``seed``, ``cfg``, ``top_k``, ``top_p`` and ``smooth`` as in ``sampling.sample``; ``scale``,
    ``row`` and ``column`` (from 1) say whose distribution is shown. What follows: ``tokens`` (1, L), ``pictures``
    (K, C, H, W) in [0, 1], after each scale, and of the chosen cell ``free`` and ``guided`` (V,), its probabilities
    without guidance and filters and with them.

    Both distributions are of the picture that the same seed draws without guidance and filters: were they of the
    picture shown, guidance would also change what was drawn before, and one would not see what it does by itself.
    ``names``: of the classes, if they have any. Source: paper's code, ``autoregressive_infer_cfg``;
    ``notebooks/07_sampling.ipynb``.
    """

    def __init__(self, model: VAR, tokenizer: VQVAE, names=None, label: int = 0, seed: int = 0, **settings) -> None:
        self.model, self.tokenizer, self.context = model, tokenizer, None
        schedule, codes = model.schedule, model.config.codebook_size
        start = {"cfg": 1.5, "top_k": 0, "top_p": 0.0, "smooth": False, **settings}
        rows, columns = schedule.final_grid
        controls = {
            "label": choice(class_options(model.config.num_classes, names), label),
            "seed": slider(seed, 0, 999),
            "cfg": slider(start["cfg"], 0, 8, 0.25),
            "top_k": slider(start["top_k"], 0, codes),
            "top_p": slider(start["top_p"], 0, 1, 0.02),
            "smooth": ipywidgets.Checkbox(value=start["smooth"], indent=False),
            "scale": slider(schedule.num_scales, 1, schedule.num_scales),
            "row": slider((rows + 1) // 2, 1, rows),
            "column": slider((columns + 1) // 2, 1, columns),
        }
        super().__init__(controls)

    @torch.no_grad()
    def compute(self) -> None:
        values, schedule = self.values, self.model.schedule
        labels = torch.tensor([values["label"]])
        settings = {name: values[name] for name in ("cfg", "top_k", "top_p", "smooth")}
        how = (self.model, self.tokenizer.quantizer, labels)
        states = list(sampling.sample_scales(*how, **settings, generator=self._seeded()))
        self.tokens = torch.cat([state.tokens_Bl for state in states], dim=1)
        features = torch.cat([state.f_hat_BChw for state in states])
        self.pictures = plots.to_unit(self.tokenizer.decode_features(features))
        if self.context != (values["label"], values["seed"]):
            self.context = (values["label"], values["seed"])
            plain = [state.tokens_Bl for state in sampling.sample_scales(*how, cfg=0.0, generator=self._seeded())]
            both = torch.stack([labels[0], torch.tensor(self.model.config.num_classes)])
            inputs = self.tokenizer.teacher_inputs(plain).expand(2, -1, -1)
            self.logits_2LV = self.model(both, inputs)
        k = values["scale"] - 1
        height, width = schedule.grids[k]
        self.cell = (min(values["row"], height), min(values["column"], width))
        place = schedule.bounds[k][0] + (self.cell[0] - 1) * width + self.cell[1] - 1
        pair_21V = self.logits_2LV[:, place, None]
        self.strength = values["cfg"] * k / max(schedule.num_scales - 1, 1)  # the ramp
        guided = sampling.filter_logits(sampling.guide(pair_21V, self.strength), values["top_k"], values["top_p"])
        self.free, self.guided = pair_21V[0, 0].softmax(-1), guided.flatten().softmax(-1)
        self.effective = float(torch.special.entr(self.guided).sum().exp())

    def _seeded(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.values["seed"])

    def figure(self) -> Figure:
        values = self.values
        title = f"Seed {values['seed']}, cfg {values['cfg']:g}, top-k {values['top_k']}, top-p {values['top_p']:g}"
        title += ", smooth" if values["smooth"] else ""
        where = f"cell {self.cell} of scale {values['scale']}, t = {self.strength:.2f}"
        return plots.drawn_and_weighed(self.pictures, self.free, self.guided, title, where)

    def describe(self) -> str:
        values = self.values
        return (
            f"Explorer of sampling: class {values['label']}, seed {values['seed']}, guidance {values['cfg']:g}, "
            f"after each of {len(self.pictures)} scales; cell {self.cell} of scale {values['scale']} chooses among "
            f"{int((self.guided > 0).sum())} codes, {self.effective:.1f} effective ones."
        )
