"""What drawing from a published model needs: against figures by hand, and a decoder that runs."""

import re

import pytest
import torch
from published_files import var_pair

from minivar import checkpoints, cli
from minivar.analysis import drawing
from minivar.analysis.complexity import model_flops, next_scale_steps
from minivar.analysis.live_bytes import LiveBytes


def test_the_decoder_needs_what_it_takes_when_it_runs():
    tokenizer, _ = var_pair()
    with torch.no_grad(), LiveBytes() as live:
        tokenizer.decode_features(torch.zeros(1, 4, 4, 4))
    traced, flops = drawing.decoder_needs(tokenizer.to("meta"), (4, 4))
    assert traced == pytest.approx(live.peak, rel=0.05)
    assert flops > 64 * 64 * 32 * 3 * 9 * 2  # its last convolution alone


def test_the_arithmetic_of_an_image_is_both_sequences_and_the_decoder():
    needed = drawing.drawing("var-d16")
    config = drawing.shapes(needed["model"])[1].config
    assert needed["FLOPs"] == 2 * model_flops(next_scale_steps(config.schedule, True), config) + needed["decoding"]
    assert needed["parameters"] == 310_283_520 + 108_948_355
    assert needed["files"] == {"vae_ch160v4096z32.pth": 435_793_420, "var_d16.pth": 1_241_134_080}
    activations = drawing.decoder_needs(drawing.shapes(needed["model"])[0], (16, 16))[0]
    keys_and_values = 2 * 2 * 16 * 680 * 1024  # both sequences
    for where, weights, number in (("CPU, float32", 8, 4), ("GPU, 16 bits", 6, 2)):
        sizes = needed["memory"][where]
        assert (sizes[8] - sizes[1]) / 7 == number * keys_and_values + activations
        own = drawing.PROCESS if "CPU" in where else 0
        assert sizes[1] - (sizes[8] - sizes[1]) / 7 == own + weights * 419_231_875


def test_seconds_are_those_of_reading_where_that_takes_longer():
    config = drawing.shapes(checkpoints.MODELS["llamagen-b-256"])[1].config
    quick = drawing.Speed(flops=1e30, bytes=1e9)
    alone = drawing.seconds(config, 0, quick, images=1, bytes_per_number=2)
    matrices = 12 * (4 * 768**2 + 3 * 768 * 2048) + 768 * 16384
    caches = 2 * 2 * 12 * 768 * sum(range(1, 257))  # two sequences, keys and values
    assert alone == pytest.approx(2 * (256 * matrices + caches) / 1e9, rel=1e-6)
    slow = drawing.Speed(flops=1e9, bytes=1e30)
    eight = drawing.seconds(config, 1000, slow, images=8, bytes_per_number=2)
    assert eight == pytest.approx(8 * drawing.seconds(config, 1000, slow, images=1, bytes_per_number=2))


def test_utilisation_divides_the_planned_speed():
    third, whole = drawing.drawing("llamagen-l-384", 0.25), drawing.drawing("llamagen-l-384", 1.0)
    for gpu, times in whole["seconds"].items():
        assert third["seconds"][gpu] == {count: pytest.approx(4 * took) for count, took in times.items()}
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match=r"A utilisation lies in \(0, 1\]; got"):
            drawing.drawing("var-d16", wrong)


@pytest.mark.parametrize("name", ["var-d16", "llamagen-t2i-xl-512"])
def test_info_says_what_a_published_model_is_and_takes(name, capsys):
    assert cli.main(["info", "--published", name]) == 0
    text = capsys.readouterr().out
    row = checkpoints.MODELS[name]
    assert text.startswith(f"published {name}, with code under the MIT licence: {row.address}\n")
    for what in (*row.files, "memory, CPU, float32", "memory, GPU, 16 bits", *drawing.PEAK):
        assert re.search(rf"^  .*{re.escape(what)} ", text, flags=re.MULTILINE), what
    assert "planned, not measured: at 0.3 of the data sheet's speed" in text
    assert re.search(r"this CPU, measured just now: [\d,]+ GFLOP/s", text)


def test_what_does_not_fit_on_a_gpu_is_said():
    assert "(8 do not fit)" in drawing.as_text(drawing.drawing("llamagen-3b-384"))
    assert "fit" not in drawing.as_text(drawing.drawing("llamagen-b-256"))
