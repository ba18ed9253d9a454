"""All randomness comes from named streams: what one part draws never shifts another part's
numbers."""

from __future__ import annotations

from hashlib import sha256

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under the study's `seed`; stable over versions
    and machines."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))
