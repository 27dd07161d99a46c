"""What ``mutants.py`` goes by: which tests concern which module, what is left out, what no test could notice."""

import re

# Which tests concern which module, the likeliest to notice a fault first: "train" is tests/test_train.py.
PUBLISHED = [
    f"parity::test_{name}" for name in ("features_tokens_and_reconstruction", "teacher_inputs_and_logits", "sampling")
]
TESTS = {
    "scales": ["scales", "quantizers", "transformer", "sampler"],
    "precision": ["quantizers", "transformer", "losses"],
    "tokenizer/quantizer": ["quantizers", "vector_quantizer", "tokenizer"],
    "tokenizer/multi_scale": ["quantizers", "tokenizer", *PUBLISHED],
    "tokenizer/single_scale": ["vector_quantizer", "quantizers", "parity_llamagen"],
    "tokenizer/vqvae": ["tokenizer", "vector_quantizer", "scales", *PUBLISHED],
    "tokenizer/nets": ["tokenizer", "scales", *PUBLISHED],
    "tokenizer/losses": ["losses", "gan_training"],
    "tokenizer/discriminator": ["losses", "gan_training"],
    "models/__init__": ["raster_training"],
    "models/layers": ["transformer", "raster", *PUBLISHED, "parity_llamagen"],
    "models/gpt": ["raster", "parity_llamagen", "raster_training"],
    "models/var": ["transformer", "sampler", *PUBLISHED],
    "sampling/config": ["raster_training", "train"],
    "sampling/drawing": ["sampler", "raster", "smooth_sampling", *PUBLISHED],
    "sampling/editing": ["sampler", "parity::test_editing"],
    "sampling/inpainting": ["editing_pixels"],
    "sampling/filters": ["sampler", "raster", *PUBLISHED],
    "sampling/generation": ["raster_training"],
    "sampling/kv_cache": [
        *("sampler", "raster"),
        "full_run::test_as_many_images_are_drawn_at_a_time_as_their_caches_have_room_for",
    ],
    "sampling/next_scale": ["sampler", *PUBLISHED],
    "sampling/raster": ["raster", "raster_training", "parity_llamagen"],
    "evaluation/metrics": ["metrics"],
    "evaluation/judges": ["metrics"],
    "training/schedules": ["loop_by_hand", "train", "raster_training"],
    "training/loop": ["loop_by_hand", "gan_training", "train", "validation"],
    "training/config": ["accumulation", "config"],
    "training/recompute": ["recompute", "train"],
    "training/tasks": ["loop_by_hand", "gan_training", "train", "raster_training", "progress"],
    "data/views": ["data", "data_emoji"],
    "analysis/complexity": ["complexity"],
    "analysis/costs": ["launch", "planner"],
    "analysis/launch": ["launch"],
    "analysis/memory": ["memory", "planner"],
    "analysis/planner": ["planner", "accumulation"],
}
# Left out, as tests that are marked slow are: each takes longer than all others of its file.
DEAR = (
    "complexity.py::test_the_command_prints_everything",
    "planner.py::test_published_runs_imply_a_utilisation_that_gpus_reach",
    "train.py::test_a_compiled_run_does_what_a_plain_one_does",
)

# Faults that are none, or that say nothing of the tests. A BitOr is a union of types or of dictionaries, and an
# arithmetic operator turned into a shift or a bitwise one, or an order into `is`, fails at once on floats and
# tensors: each would be killed for nothing and flatter the score. Which exception is caught is no computation.
NO_OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Bit\w+_\w+|\w+_(RShift|LShift|BitOr|BitAnd|BitXor))"
    r"|ReplaceComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_(Is|IsNot)"
    r"|ReplaceComparisonOperator_(Is|IsNot)_(Eq|NotEq|Lt|LtE|Gt|GtE)"
    r"|ReplaceUnaryOperator_\w+_(Invert|Not)|ExceptionReplacer)$"
)

# Survivors that no test could tell from the original, by module and changed line, with the reason.
EQUIVALENT = {
    (
        "tokenizer/vqvae",
        "if len(got) != 1 or len(got[0]) != 2 or math.isqrt(got[0][1]) ** 2 < got[0][1]:",
    ): "the square of the integer root is never larger than the number",
    (
        "tokenizer/losses",
        'def train(self, mode: bool = False) -> "Perceptual":',
    ): "the mode is ignored on purpose: LPIPS stays in eval mode",
}
