"""KV cache of every node: paged blocks, least recently used user out first.

A bit per node in the user's mask answers "is it resident?" for the router without touching the
entry; an open-addressing hash finds the entry of (user, node) once the node is chosen.
"""

from __future__ import annotations

import numpy as np

from helm_gym.sim.compiled import inlined, kernel
from helm_gym.sim.intrinsics import prefetch
from helm_gym.sim.layout import Array, Kv
from helm_gym.sim.rng import mix64


@kernel
def clear(kv: Kv, users: Array, entries: int) -> None:
    """Empty the caches of all nodes."""
    for user in range(users.size):
        users[user].entry = -1
        for w in range(kv.mask.shape[1]):
            kv.mask[user, w] = np.uint64(0)
    kv.table[:] = -1
    kv.used[:] = 0
    kv.inserted[:] = 0.0
    kv.newest[:] = -1
    kv.oldest[:] = -1
    kv.changes[0] = kv.changed.size + 1
    for node in range(kv.free.size):
        first = node * entries
        kv.free[node] = first
        for e in range(first, first + entries):
            kv.entry[e].owner = -1
            kv.entry[e].newer = e + 1
        kv.entry[first + entries - 1].newer = -1


@inlined
def note_change(kv: Kv, user: int) -> None:
    """Remember that the user's mask is no longer what was last reported."""
    if kv.changed.size > 0:
        count = kv.changes[0]
        if count < kv.changed.size:
            kv.changed[count] = user
        kv.changes[0] = count + 1


@inlined
def resident(mask: Array, user: int, node: int) -> bool:
    """Whether the node holds the user's KV, according to a mask."""
    word = mask[user, node >> 6]
    return (word >> np.uint64(node & 63)) & np.uint64(1) != np.uint64(0)


@inlined
def home(kv: Kv, user: int, node: int) -> int:
    """Hash slot at which the probe for (user, node) begins."""
    key = np.uint64(user) * np.uint64(2048) + np.uint64(node)
    return int(np.int64(mix64(key) & np.uint64(kv.table.size - 1)))


@inlined
def find(kv: Kv, users: Array, user: int, node: int, entries: int) -> int:
    """Entry of (user, node), -1 if the node does not hold the user's KV."""
    if not resident(kv.mask, user, node):
        return -1
    first = node * entries
    own = users[user].entry
    if first <= own < first + entries:
        return own
    wrap = kv.table.size - 1
    slot = home(kv, user, node)
    while True:
        entry = kv.table[slot]
        if first <= entry < first + entries and kv.entry[entry].owner == user:
            return entry
        slot = (slot + 1) & wrap


@kernel
def _hash_insert(kv: Kv, user: int, node: int, entry: int) -> None:
    wrap = kv.table.size - 1
    slot = home(kv, user, node)
    while kv.table[slot] >= 0:
        slot = (slot + 1) & wrap
    kv.table[slot] = entry


@kernel
def _hash_remove(kv: Kv, user: int, node: int, entry: int, entries: int) -> None:
    """Remove by shifting later members of the probe chain back, so that no tombstones remain."""
    wrap = kv.table.size - 1
    hole = home(kv, user, node)
    while kv.table[hole] != entry:
        hole = (hole + 1) & wrap
    slot = hole
    while True:
        slot = (slot + 1) & wrap
        other = kv.table[slot]
        if other < 0:
            break
        start = home(kv, kv.entry[other].owner, other // entries)
        if ((slot - start) & wrap) >= ((slot - hole) & wrap):
            kv.table[hole] = other
            hole = slot
    kv.table[hole] = -1


@inlined
def _unlink(kv: Kv, node: int, entry: int) -> None:
    newer, older = kv.entry[entry].newer, kv.entry[entry].older
    if newer >= 0:
        kv.entry[newer].older = older
    else:
        kv.newest[node] = older
    if older >= 0:
        kv.entry[older].newer = newer
    else:
        kv.oldest[node] = newer


@inlined
def _push_newest(kv: Kv, node: int, entry: int) -> None:
    top = kv.newest[node]
    kv.entry[entry].newer = -1
    kv.entry[entry].older = top
    if top >= 0:
        kv.entry[top].newer = entry
    else:
        kv.oldest[node] = entry
    kv.newest[node] = entry


@inlined
def _prepare_eviction(kv: Kv, users: Array, node: int, entries: int) -> None:
    """Prefetch what the next evictions on a node will touch, each step from the one before."""
    one = kv.oldest[node]
    if one < 0:
        return
    owner = kv.entry[one].owner
    if users[owner].entry != one:
        prefetch(kv.table, home(kv, owner, node))
    two = kv.entry[one].newer
    if two < 0:
        return
    prefetch(users, kv.entry[two].owner)
    prefetch(kv.entry, kv.entry[two].newer)


@inlined
def _evict_oldest(kv: Kv, users: Array, node: int, entries: int) -> int:
    """Evict the least recently used user of a node; return the blocks freed."""
    entry = kv.oldest[node]
    user = kv.entry[entry].owner
    _unlink(kv, node, entry)
    if users[user].entry == entry:
        users[user].entry = -1
    else:
        _hash_remove(kv, user, node, entry, entries)
    kv.mask[user, node >> 6] &= ~(np.uint64(1) << np.uint64(node & 63))
    note_change(kv, user)
    users[user].evicted_node = node
    users[user].evicted_clock = np.uint32(np.int64(kv.inserted[node]))
    kv.entry[entry].owner = -1
    kv.entry[entry].newer = kv.free[node]
    kv.free[node] = entry
    kv.used[node] -= kv.entry[entry].blocks
    _prepare_eviction(kv, users, node, entries)
    return kv.entry[entry].blocks


@kernel
def resize(kv: Kv, users: Array, node: int, capacity: int, entries: int) -> int:
    """Set a node's capacity in blocks; evict what no longer fits; return the blocks evicted."""
    kv.capacity[node] = capacity
    evicted = 0
    while kv.used[node] > capacity:
        evicted += _evict_oldest(kv, users, node, entries)
    return evicted


@inlined
def prepare_store(kv: Kv, users: Array, user: int, entries: int) -> None:
    """Prefetch where the entry that a user's row names goes when another takes its place."""
    former = users[user].entry
    if former >= 0:
        prefetch(kv.table, home(kv, user, former // entries))


@inlined
def store(
    kv: Kv,
    users: Array,
    user: int,
    node: int,
    entry: int,
    tokens: int,
    block_tokens: int,
    entries: int,
) -> int:
    """Keep the KV of ``tokens`` tokens as the newest of the node; return the blocks evicted.

    ``entry`` is where the user's KV is on this node, -1 if it is not there. A history that is
    larger than the whole cache is not kept at all.
    """
    need = int((tokens + block_tokens - 1) / block_tokens)  # exact, and cheaper than //
    held = entry >= 0
    if need > kv.capacity[node]:
        return 0
    grown = need - (kv.entry[entry].blocks if held else 0)
    if held:
        _unlink(kv, node, entry)
        _push_newest(kv, node, entry)
    evicted = 0
    while kv.used[node] + grown > kv.capacity[node] or (not held and kv.free[node] < 0):
        evicted += _evict_oldest(kv, users, node, entries)
    if not held:
        entry = kv.free[node]
        kv.free[node] = kv.entry[entry].newer
        kv.entry[entry].owner = user
        kv.mask[user, node >> 6] |= np.uint64(1) << np.uint64(node & 63)
        note_change(kv, user)
        former = users[user].entry
        if former >= 0:
            _hash_insert(kv, user, former // entries, former)
        users[user].entry = entry
        _push_newest(kv, node, entry)
    kv.entry[entry].blocks = need
    kv.entry[entry].tokens = tokens
    kv.used[node] += grown
    kv.inserted[node] += max(grown, 0)  # a history that is kept short gives blocks back
    return evicted
