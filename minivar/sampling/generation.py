"""Drawing with whatever model there is."""

from torch import Tensor

from minivar.models.gpt import GPT
from minivar.models.var import VAR
from minivar.sampling.drawing import Sample
from minivar.sampling.next_scale import sample
from minivar.sampling.raster import sample_raster
from minivar.tokenizer.vqvae import VQVAE


def generate(model: VAR | GPT, tokenizer: VQVAE, labels: Tensor, generator=None, **settings) -> Sample:
    """``sample`` or ``sample_raster``, whichever the model needs, with the settings of its preset."""
    function = sample_raster if isinstance(model, GPT) else sample
    return function(model, tokenizer, labels, generator=generator, **settings)
