"""The order of an epoch that is read along the shards."""

from __future__ import annotations

import numpy as np

from bbg.data.order import along


def test_a_sequential_order_stays_near_the_stream() -> None:
    draws = np.random.default_rng(0)
    shards = np.repeat(np.arange(20), 50)
    places = np.tile(np.arange(50), 20)
    mixed = draws.permutation(1000)
    shards, places = shards[mixed], places[mixed]
    orders = [along(shards, places, 3, epoch, 70) for epoch in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    for order in orders:
        assert sorted(order) == list(range(1000))
        turns = np.array(list(dict.fromkeys(shards[along(shards, places, 3, 0, 0)])))
        assert sorted(turns) == list(range(20))
        assert not np.array_equal(turns, np.arange(20))
    stream = along(shards, places, 3, 1, 0)
    assert all(len(set(shards[stream[i : i + 50]])) == 1 for i in range(0, 1000, 50)), "shard after shard"
    assert np.all(np.diff(places[stream].reshape(20, 50)) == 1)
    behind = np.argsort(stream)[orders[2]] - np.arange(1000)
    assert 25 < np.abs(behind).max() < 70
    assert max(len(set(shards[orders[2][i : i + 8]])) for i in range(0, 992, 8)) <= 4
