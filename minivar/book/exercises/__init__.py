"""The checks that the chapters' exercises call.

Each ``check_...`` takes the reader's function, tries it on a few cases, prints one line, and returns whether all
passed. A failing case is named with what came out and what was expected; nothing is raised, so that a notebook with
unsolved exercises still runs from top to bottom.
"""

from minivar.book.exercises.chapter00 import check_count_steps
from minivar.book.exercises.chapter01 import check_compression, check_quantizer_loss, check_sphere_lookup
from minivar.book.exercises.chapter02 import check_log_likelihood, check_nucleus, check_rotary
from minivar.book.exercises.chapter03 import check_count_pairs, check_crossover, check_images_at_once
from minivar.book.exercises.chapter04 import check_straight_through, check_toy_decode, check_usage
from minivar.book.exercises.chapter05 import check_guidance, check_parameter_count, check_teacher_inputs
from minivar.book.exercises.chapter06 import check_balanced_loss, check_learning_rate
from minivar.book.exercises.chapter07 import check_append, check_draw, check_filter, check_guided_probabilities
from minivar.book.exercises.chapter08 import check_leading_constant, check_schedule_pairs, check_smallest_batch
from minivar.book.exercises.chapter09 import check_covered, check_frechet, check_inception, check_streaming
from minivar.book.exercises.chapter11 import (
    check_best_rung,
    check_block_parameters,
    check_entropy,
    check_power_law,
)
from minivar.book.exercises.chapter12 import check_ddim_step, check_hidden_counts, check_keep_surest, check_mix
from minivar.book.exercises.chapter13 import check_state_bytes, check_step_plan, check_ten_crops

__all__ = [
    "check_count_steps",
    "check_compression",
    "check_quantizer_loss",
    "check_sphere_lookup",
    "check_log_likelihood",
    "check_nucleus",
    "check_rotary",
    "check_count_pairs",
    "check_crossover",
    "check_images_at_once",
    "check_straight_through",
    "check_toy_decode",
    "check_usage",
    "check_guidance",
    "check_parameter_count",
    "check_teacher_inputs",
    "check_balanced_loss",
    "check_learning_rate",
    "check_append",
    "check_draw",
    "check_filter",
    "check_guided_probabilities",
    "check_leading_constant",
    "check_schedule_pairs",
    "check_smallest_batch",
    "check_covered",
    "check_frechet",
    "check_inception",
    "check_streaming",
    "check_best_rung",
    "check_block_parameters",
    "check_entropy",
    "check_power_law",
    "check_ddim_step",
    "check_hidden_counts",
    "check_keep_surest",
    "check_mix",
    "check_state_bytes",
    "check_step_plan",
    "check_ten_crops",
]
