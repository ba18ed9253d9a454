"""Pictures that are shifted and mirrored as a block on the device."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from regatta.data.image_augment import ImageAugment, shift_and_mirror
from regatta.data.window_loader import WindowLoader


def pictures(count: int, side: int = 8) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(1, 256, (count, 3, side, side), dtype=np.uint8))


@given(
    top=st.integers(0, 4), left=st.integers(0, 4), mirror=st.booleans(), pad=st.sampled_from([2])
)
def test_one_picture_is_cut_as_numpy_cuts_it(top: int, left: int, mirror: bool, pad: int):
    image = pictures(1)
    found = shift_and_mirror(
        image, torch.tensor([top]), torch.tensor([left]), torch.tensor([mirror]), pad=pad
    )
    bordered = np.pad(image[0].numpy(), ((0, 0), (pad, pad), (pad, pad)))
    expected = bordered[:, top : top + 8, left : left + 8]
    assert np.array_equal(found[0].numpy(), expected[:, :, ::-1] if mirror else expected)


def test_no_border_and_no_mirror_change_nothing():
    images = pictures(5)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(ImageAugment(pad=0, flip=False)(images, generator=generator), images)


def test_half_are_mirrored_and_all_shifts_occur():
    """2,000 draws of 3 x 3 shifts: each count within five standard deviations of its mean."""
    ramp = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(2000, 1, 8, 8)
    found = ImageAugment(pad=1)(ramp, generator=torch.Generator().manual_seed(3))
    middle = found[:, 0, 4, 4].int()
    step = found[:, 0, 4, 5].int() - middle
    mirrored = step < 0
    assert abs(int(mirrored.sum()) - 1000) < 5 * (2000 * 0.25) ** 0.5
    plain = middle[~mirrored]
    counts = torch.stack([(plain == value).sum() for value in sorted(set(plain.tolist()))])
    assert len(counts) == 9
    mean = len(plain) / 9
    assert (counts - mean).abs().max() < 5 * mean**0.5


def test_what_a_picture_becomes_does_not_depend_on_the_batch_or_on_ranks():
    images = pictures(600)
    names = [str(number) for number in range(600)]

    def epoch(batch_size: int, world: int = 1) -> dict[str, bytes]:
        seen = {}
        for rank in range(world):
            loader = WindowLoader(
                images,
                list(range(600)),
                names,
                batch_size=batch_size,
                seed=5,
                device=torch.device("cpu"),
                rank=rank,
                world=world,
                augment=ImageAugment(),
            )
            for batch in loader.batches(2):
                for name, picture in zip(batch.sample_ids, batch.inputs, strict=True):
                    assert name not in seen
                    seen[name] = picture.numpy().tobytes()
        return seen

    alone = epoch(64)
    assert len(alone) == 600
    assert epoch(16) == alone
    assert epoch(37, world=3) == alone
