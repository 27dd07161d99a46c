"""Memory that a process has used once, and should keep.

Freeing a large tensor on Linux gives its pages back to the system, and the next one gets fresh pages, each of them
cleared at its first touch: the convolutional nets at 256 pixels spend a fifth of their time and more on that. For
a process that does the same thing again and again, as training and sampling do, ``keep_memory`` switches it off. On
two AVX2 cores decoding one 256-pixel image by VAR's tokenizer took 3.5 s before and 2.5 s after, encoding one 1.75
and 1.4 s (medians of five in one process each, one machine, before ``sampling.winograd``); training on digits gained
nothing that could be told from noise.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # the names of two settings in glibc's malloc.h


def keep_memory() -> bool:
    """Let freed memory wait for the next tensor; False, and nothing done, where the C library is not glibc.

    For the whole process, and for good: what it holds is then the most that it ever held. The command line calls it;
    a library must not decide it for its user.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    never_trim = library.mallopt(TRIM_THRESHOLD, -1)
    never_map = library.mallopt(MMAP_MAX, 0)  # pages that are mapped for one tensor are always given back
    return bool(never_trim and never_map)
