# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""ALGM's merges as the paper describes them, for one image, in loops over tokens and pairs: slow and obvious."""

import math


def cosine(a, b):
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def naive_local(tokens, grid, num_special, window, threshold):
    """tokens (S + h * w, C). Returns the groups of old positions, in the order of the new tokens."""
    height, width = grid
    merged, in_window = [], set()
    for top in range(0, height - window + 1, window):
        for left in range(0, width - window + 1, window):
            members = [
                num_special + (top + row) * width + left + column for row in range(window) for column in range(window)
            ]
            pairs = [cosine(tokens[i], tokens[j]) for i in members for j in members if i != j]
            similarity = sum(pairs) / len(pairs)
            if similarity >= threshold:
                merged.append((similarity, members))
                in_window.update(members)
    merged.sort(key=lambda pair: -pair[0])
    special = [[position] for position in range(num_special)]
    rest = [[p] for p in range(num_special, len(tokens)) if p not in in_window]
    return special + [members for _, members in merged] + rest


def naive_global(tokens, special, layer):
    """tokens (T, C), special: set of positions. Returns the groups of old positions in the order of new tokens."""
    set_a, set_b = range(0, len(tokens), 2), range(1, len(tokens), 2)
    best = {}
    for a in set_a:
        scores = [(cosine(tokens[a], tokens[b]), b) for b in set_b if b not in special]
        if a not in special and scores:
            best[a] = max(scores, key=lambda pair: pair[0])
    scores = [score for score, _ in best.values()]
    merged = {}
    if len(scores) >= 2:
        mean = sum(scores) / len(scores)
        std = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        merged = {a: b for a, (score, b) in best.items() if score >= mean + std / layer}
    groups = [[a] for a in set_a if a not in merged]
    return groups + [[b] + [a for a, target in merged.items() if target == b] for b in set_b]


def naive_average(tokens, sizes, groups):
    """The size-weighted mean of each group and its size."""
    means, new_sizes = [], []
    for group in groups:
        total = sum(float(sizes[i]) for i in group)
        means.append(sum(tokens[i] * float(sizes[i]) for i in group) / total)
        new_sizes.append(total)
    return means, new_sizes
