"""The image pool: what it stores and shows, and its state."""

from __future__ import annotations

import pytest
import torch

from trainer.image_pool import ImagePool


def _images(numbers: range) -> torch.Tensor:
    """Return one image [1, 1, 1] for each number, whose value is the number."""
    return torch.tensor(list(numbers), dtype=torch.float32)[:, None, None, None]


def _show(pool: ImagePool, numbers: range) -> list[int]:
    """Return the numbers of the images that the pool shows for `numbers`."""
    return [int(image) for image in pool.exchange(_images(numbers), torch.tensor(list(numbers))).flatten()]


def test_pool_stores_and_shows_images_while_there_is_room() -> None:
    pool = ImagePool(size=6, global_size=4, seed=0, pool_id="A")
    assert _show(pool, range(4)) == [0, 1, 2, 3]
    assert _show(pool, range(4, 6)) == [4, 5]
    # Six places among four slots: two for slots 0 and 1.
    assert {key: int(image) for key, image in pool.state().items()} == {
        "0.0": 0, "1.0": 1, "2.0": 2, "3.0": 3, "0.1": 4, "1.1": 5
    }  # fmt: skip


def test_pool_that_is_full_swaps_half_of_the_time() -> None:
    pool = ImagePool(size=10, global_size=5, seed=0, pool_id="A")
    shown = _show(pool, range(2010))
    swapped = [(new, old) for new, old in enumerate(shown) if new != old]
    assert len(swapped) / 2000 == pytest.approx(0.5, abs=0.05)
    assert all(old < new and old % 5 == new % 5 for new, old in swapped)
    held = [int(image) for image in pool.state().values()]
    assert len(held) == 10
    # Each image was shown at once or stored; a stored image was shown later or is still in the pool.
    assert sorted(shown[10:] + held) == list(range(2010))


def test_pool_of_size_0_shows_the_generated_images() -> None:
    pool = ImagePool(size=0, global_size=4, seed=0, pool_id="A")
    assert _show(pool, range(40)) == list(range(40))
    assert pool.state() == {}


def test_pool_shows_detached_images_and_stores_copies() -> None:
    pool = ImagePool(size=2, global_size=2, seed=0, pool_id="A")
    for first in range(0, 20, 2):
        images = _images(range(first, first + 2)).requires_grad_()
        assert not pool.exchange(images, torch.tensor([first, first + 1])).requires_grad
        with torch.no_grad():
            images.fill_(-1)
    held = [int(image) for image in pool.state().values()]
    assert min(held) >= 0
    assert max(held) > 1


def test_pool_slots_continue_from_their_state_on_any_worker() -> None:
    whole = ImagePool(size=10, global_size=4, seed=3, pool_id="B")
    _show(whole, range(40))
    state = whole.state()
    parts = [ImagePool(size=10, global_size=4, seed=3, pool_id="B") for _ in range(2)]
    for rank, part in enumerate(parts):
        _show(part, range(4))
        part.load(state, range(2 * rank, 2 * rank + 2))
        assert part.state().keys() == {key for key in state if int(key.split(".")[0]) // 2 == rank}
    for step in range(10, 30):
        first = 4 * step
        halves = [_show(part, range(first + 2 * rank, first + 2 * rank + 2)) for rank, part in enumerate(parts)]
        assert halves[0] + halves[1] == _show(whole, range(first, first + 4))
    after = {key: image for part in parts for key, image in part.state().items()}
    assert {key: int(image) for key, image in after.items()} == {
        key: int(image) for key, image in whole.state().items()
    }


def test_pool_state_keeps_the_order_of_more_than_ten_images() -> None:
    pool = ImagePool(size=12, global_size=1, seed=0, pool_id="A")
    _show(pool, range(12))
    other = ImagePool(size=12, global_size=1, seed=0, pool_id="A")
    other.load(dict(sorted(pool.state().items())), [0])
    assert {key: int(image) for key, image in other.state().items()} == {f"0.{number}": number for number in range(12)}


def test_pool_swaps_depend_on_seed_and_pool_id() -> None:
    def swaps(seed: int, pool_id: str, reseeded: int | None = None) -> tuple[int, ...]:
        pool = ImagePool(size=4, global_size=2, seed=seed, pool_id=pool_id)
        if reseeded is not None:
            pool.reseed(reseeded)
        return tuple(_show(pool, range(60)))

    runs = {draw: swaps(*draw) for draw in ((0, "A"), (0, "B"), (1, "A"), (1, "B"))}
    assert len(set(runs.values())) == 4
    assert swaps(0, "A") == runs[0, "A"]
    assert swaps(0, "B", reseeded=1) == runs[1, "B"]
