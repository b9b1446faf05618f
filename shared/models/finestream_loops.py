"""The user side of finestream's network as compiled loops, one user after another: no sum is over several.

`Network.users_who` with `Neighbours.users`, and `finestream_attribution.moved`, say the same in torch, and a test holds
these to them. What is fixed once a model has been trained is joined: each view goes through one product, and the
block's keys and values are never made, since it asks at the newest place alone:

  q . (K h_j) = (K^T q) . h_j      sum_j p_j (V h_j + b) = V (sum_j p_j h_j) + b

Shapes as in finestream_network.py; X = 2, the co and the se view; r the neighbours' rank; S the longest history of the
batch, K items to explain, P the most opinions of a user.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.models.loops import (
    ONE,
    STEP,
    ZERO,
    Floats,
    add_product,
    attend_causally,
    dot,
    exp,
    fill,
    gelu,
    gelu_slope,
    mapped,
    normalised,
    softmax,
    tanh_all,
    up_to_step,
)
from shared.native import native

Ints = NDArray[np.int64]
LEAST = np.float32(1e-9)
ALONE = np.float32(1e-6)  # an opinion that counts for all but so much is the only one


class Weights(NamedTuple):
    """Of a network that no longer learns, inputs first: x @ w."""

    heads: int
    position: Floats  # (L, d)
    into: Floats  # (X, d, 3d): keys and values that the other view asks for; its own questions of it, divided alike
    into_shift: Floats  # (X, 3d)
    out: Floats  # (X, d, d)
    out_shift: Floats  # (X, d)
    norm1: Floats  # (2, d): gain and shift, as the other norms
    nothing: Floats  # (A c or d,): no shift
    asks: Floats  # (d, d): the block's question, divided by the root of a head's length
    keys: Floats  # (d, d): outputs first
    values: Floats  # (H, d, d/H)
    values_shift: Floats  # (d,)
    met: Floats  # (d, d)
    met_shift: Floats
    norm2: Floats
    up: Floats  # (d, 2d)
    up_shift: Floats
    down: Floats  # (2d, d)
    down_shift: Floats
    norm: Floats
    attribute: Floats  # (A, c)
    polarity: Floats  # (3, c)
    maps: Floats  # (3, A, c, c)
    shifts: Floats  # (3, A, c)
    head: Floats  # (A c, d)
    head_shift: Floats
    tail: Floats  # (d, d): the head's second map
    tail_shift: Floats
    fusion: Floats  # (d, d), divided by the root of d
    fusion_shift: Floats
    head_back: Floats  # (d, A c): the head's maps, outputs first
    tail_back: Floats  # (d, d)
    gains: Floats  # (3,)
    counts: Floats  # (3,): what personal views, the neighbours, and opinions count
    powers: Floats  # (L + 1,): of the neighbours' decay


class Users(NamedTuple):
    """B users as features.UserFeatures has them, without torch."""

    history: Ints  # (B, S): rows of the table
    length: Ints  # (B,) of a history
    first: Ints  # (B + 1,): where the opinions of each begin
    attribute: Ints  # (M,)
    opinion: Floats  # (M, c)
    polarity: Ints  # (M,)
    item: Ints  # (M,)


class Table(NamedTuple):
    vectors: Floats  # (N, 3d + r)
    fine: Floats  # (N, A c)


class View(NamedTuple):
    """What was made of users on the way to their vectors; it is looked at again for what moved a score."""

    weight: Floats  # (M,) of the opinion, among the user's on its attribute
    v: Floats  # (M, c)
    told: Floats  # (B, A c)
    hidden: Floats  # (B, d): before the head's GELU
    share: Floats  # (B, S): the weight of each item met
    users: Floats  # (B, 3d + r)


@native
def encode(w: Weights, table: Table, asked: Users, view: View, start: int, stop: int) -> None:
    """Fill in the view of the users in [start, stop)."""
    longest, d = up_to_step(asked.history.shape[1]), len(w.asks)
    x, of_view = np.zeros((2, longest, d), np.float32), np.zeros((2, longest, 3 * d), np.float32)
    keys = np.zeros((d // w.heads, longest), np.float32)
    scores, met = np.zeros((STEP, longest), np.float32), np.zeros((longest, d), np.float32)
    for user in range(start, stop):
        out, count, history = view.users[user], asked.length[user], asked.history[user]
        if not count and asked.first[user] == asked.first[user + 1]:
            for o in range(len(out)):
                out[o] = ZERO
            continue
        _cross(w, table, history, max(1, count), x, of_view, keys, scores, met)
        for of in range(2):
            _at_newest(w, x[of], max(1, count), met, out[of * d : (of + 1) * d])
        _fine_user(w, table, asked, user, view, out[2 * d : 3 * d])
        for o in range(3 * d):
            out[o] *= w.gains[o // d] * w.counts[0]
        _near(w, table, history, count, out[3 * d :])


@native
def _cross(
    w: Weights, table: Table, history: Ints, count: int, x: Floats, asked: Floats, keys: Floats, scores: Floats,
    met: Floats,
) -> None:  # fmt: skip
    """Both views placed in time, and having attended to each other: x (X, L, d). Without any history the first row of
    the table stands in, as in the network."""
    d, rows = x.shape[2], up_to_step(count)
    for of in range(2):
        for at in range(count, rows):
            for o in range(d):
                x[of, at, o] = ZERO
        for at in range(count):
            vector, position, placed = table.vectors[history[at]], w.position[count - 1 - at], x[of, at]
            for o in range(d):
                placed[o] = vector[of * d + o] + position[o]
        fill(asked[of], rows, w.into_shift[of])
        add_product(x[of], 0, w.into[of], 0, asked[of], 0, rows, d, 3 * d)
    for of in range(2):
        attend_causally(asked[of], asked[1 - of], rows, w.heads, keys, scores, met)
        for at in range(rows):
            for o in range(d):
                x[of, at, o] += w.out_shift[of, o]
        add_product(met, 0, w.out[of], 0, x[of], 0, rows, d, d)


@native
def _at_newest(w: Weights, x: Floats, count: int, h: Floats, out: Floats) -> None:
    """Block.at and the last norm: x (L, d) -> out (d,). h (L, d) is overwritten."""
    d, newest = len(out), count - 1
    question, met, y, z = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32), np.empty_like(out)
    for at in range(count):
        normalised(x[at], w.norm1[0], w.norm1[1], h[at])
    mapped(h[newest], w.asks, w.nothing, question)
    _met(w, question, h, count, met)
    mapped(met, w.met, w.met_shift, y)
    for o in range(d):
        y[o] += x[newest, o]
    normalised(y, w.norm2[0], w.norm2[1], z)
    wide = np.empty(len(w.up_shift), np.float32)
    mapped(z, w.up, w.up_shift, wide)
    for o in range(len(wide)):
        wide[o] = gelu(wide[o])
    mapped(wide, w.down, w.down_shift, z)
    for o in range(d):
        y[o] += z[o]
    normalised(y, w.norm[0], w.norm[1], out)


@native
def _met(w: Weights, question: Floats, h: Floats, count: int, met: Floats) -> None:
    """What a question (d,) meets in the rows of h: met (d,)."""
    d = len(question)
    length = d // w.heads
    scores, key, mean = np.empty(count, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
    for head in range(w.heads):
        first, end = head * length, (head + 1) * length
        for i in range(d):
            key[i] = mean[i] = ZERO
        for o in range(first, end):
            for i in range(d):
                key[i] += question[o] * w.keys[o, i]
        for at in range(count):
            scores[at] = dot(h[at], key)
        softmax(scores, count)
        for at in range(count):
            for i in range(d):
                mean[i] += scores[at] * h[at, i]
        mapped(mean, w.values[head], w.values_shift[first:end], met[first:end])


@native
def _fine_user(w: Weights, table: Table, asked: Users, user: int, view: View, out: Floats) -> None:
    """FineRec's user: out (d,)."""
    d, count, history, share = len(out), asked.length[user], asked.history[user], view.share[user]
    whole, told, hidden = np.zeros(len(w.head), np.float32), view.told[user], view.hidden[user]
    for at in range(count):
        row = history[at]
        for o in range(len(whole)):
            whole[o] += table.fine[row, o]
    for o in range(len(whole)):
        whole[o] /= np.float32(max(1, count))
    _opinions(w, table, asked, user, whole, view)
    for o in range(len(whole)):
        whole[o] += told[o]
    mapped(whole, w.head, w.head_shift, hidden)
    y, question = np.empty(d, np.float32), np.empty(d, np.float32)
    for o in range(d):
        y[o] = gelu(hidden[o])
    mapped(y, w.tail, w.tail_shift, out)
    mapped(out, w.fusion, w.fusion_shift, question)
    for at in range(len(share)):
        share[at] = ZERO
    for at in range(count):
        share[at] = dot(table.vectors[history[at], 2 * d : 3 * d], question)
    if count:
        softmax(share, count)
    for at in range(count):
        row = history[at]
        for o in range(d):
            out[o] += share[at] * table.vectors[row, 2 * d + o]


@native
def _opinions(w: Weights, table: Table, asked: Users, user: int, x: Floats, view: View) -> None:
    """OpinionConvolution of what is around the user, x (A c,). tanh bounds the logits: their softmax needs no largest
    one."""
    first, end, c = asked.first[user], asked.first[user + 1], w.attribute.shape[1]
    told, inputs = view.told[user], np.empty((3, c), np.float32)
    made, total = np.empty((3, end - first, c), np.float32), np.zeros(len(w.attribute), np.float32)
    for at in range(first, end):
        a, item = asked.attribute[at], asked.item[at]
        for o in range(c):
            met = table.fine[item, a * c + o] if item >= 0 else ZERO
            inputs[0, o] = x[a * c + o]
            inputs[1, o] = w.attribute[a, o] + met
            inputs[2, o] = met + asked.opinion[at, o] + w.polarity[asked.polarity[at], o]
        for which in range(3):
            mapped(inputs[which], w.maps[which, a], w.shifts[which, a], made[which, at - first])
    tanh_all(made.reshape(-1))
    for at in range(first, end):
        logit = dot(made[0, at - first], made[1, at - first]) / math.sqrt(np.float32(c))
        view.weight[at] = exp(logit) * w.counts[2]
        total[asked.attribute[at]] += view.weight[at]
    for o in range(len(told)):
        told[o] = ZERO
    for at in range(first, end):
        a = asked.attribute[at]
        view.weight[at] /= max(total[a], LEAST)
        for o in range(c):
            view.v[at, o] = made[2, at - first, o]
            told[a * c + o] += view.weight[at] * view.v[at, o]


@native
def _near(w: Weights, table: Table, history: Ints, count: int, out: Floats) -> None:
    """Neighbours.users: out (r,)."""
    column = table.vectors.shape[1] - len(out)
    for o in range(len(out)):
        out[o] = ZERO
    for at in range(count):
        row, weight = history[at], w.powers[count - 1 - at]
        for o in range(len(out)):
            out[o] += weight * table.vectors[row, column + o]
    for o in range(len(out)):
        out[o] *= w.counts[1] / math.sqrt(np.float32(max(1, count)))


@native
def moved(
    w: Weights, table: Table, asked: Users, view: View, picked: Ints, by_items: Floats, by_said: Floats, start: int,
    stop: int,
) -> None:  # fmt: skip
    """What moved the scores of picked (B, K) of the users in [start, stop), as finestream_attribution.moved: by_items
    (B, S, K), by_said (B, P, K), which are -inf and stay so where a user has no such edge."""
    k, longest, d = picked.shape[1], up_to_step(asked.history.shape[1]), len(w.asks)
    lost, scores = np.zeros((3, longest, longest), np.float32), np.zeros((3, longest, k), np.float32)
    fell, slope = np.empty((longest, k), np.float32), np.empty(len(w.head), np.float32)
    bent, part, back = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
    for user in range(start, stop):
        count, history = asked.length[user], asked.history[user]
        rows = up_to_step(count)
        _lost(w, history, count, view.share[user], lost)
        for o in range(d):
            bent[o] = gelu_slope(view.hidden[user, o])
        for which in range(3):
            for at in range(count, rows):
                for o in range(k):
                    scores[which, at, o] = ZERO
        for pick in range(k):
            row = picked[user, pick]
            for o in range(d):
                part[o] = w.counts[0] * w.gains[2] * table.vectors[row, 2 * d + o]
            mapped(part, w.tail_back, w.nothing, back)
            for o in range(d):
                back[o] *= bent[o]
            mapped(back, w.head_back, w.nothing, slope)
            for at in range(count):
                met = history[at]
                scores[0, at, pick] = dot(part, table.vectors[met, 2 * d : 3 * d])
                scores[1, at, pick] = dot(slope, table.fine[met])
                scores[2, at, pick] = w.counts[1] * dot(table.vectors[row, 3 * d :], table.vectors[met, 3 * d :])
            _moved_by_said(w, asked, user, view, slope, pick, by_said[user])
        for at in range(rows):
            for o in range(k):
                fell[at, o] = ZERO
        for which in range(3):
            add_product(lost[which], 0, scores[which], 0, fell, 0, rows, rows, k)
        for at in range(count):
            for o in range(k):
                by_items[user, at, o] = fell[at, o]
        if asked.first[user] == asked.first[user + 1] and (history[:count] == history[0]).all():
            _moved_by_all(table, picked[user], view.users[user], count, by_items[user])


@native
def _lost(w: Weights, history: Ints, count: int, share: Floats, lost: Floats) -> None:
    """lost (3, L, L): by how much each item's weight falls, row by row, without that row's item: in the fusion, in what
    is around the user, and among the neighbours."""
    rows = up_to_step(count)
    for at in range(rows):
        for other in range(rows):
            lost[0, at, other] = lost[1, at, other] = lost[2, at, other] = ZERO
    for at in range(count):
        kept, kept_share = 0, ZERO
        for other in range(count):
            if history[other] != history[at]:
                kept += 1
                kept_share += share[other]
        newer = kept
        for other in range(count):
            lost[0, at, other] = share[other]
            lost[1, at, other] = ONE / np.float32(count)
            lost[2, at, other] = w.powers[count - 1 - other] / math.sqrt(np.float32(count))
            if history[other] != history[at]:
                newer -= 1
                lost[0, at, other] -= share[other] / max(kept_share, LEAST)
                lost[1, at, other] -= ONE / np.float32(kept)
                lost[2, at, other] -= w.powers[newer] / math.sqrt(np.float32(kept))


@native
def _moved_by_said(w: Weights, asked: Users, user: int, view: View, slope: Floats, pick: int, by_said: Floats) -> None:
    """by_said (P, K): each opinion's own part of what was told, on the slope (A c,) of one item's score."""
    c, first = w.attribute.shape[1], asked.first[user]
    for at in range(first, asked.first[user + 1]):
        a, weight, total = asked.attribute[at], view.weight[at], ZERO
        for o in range(c):
            mean = view.told[user, a * c + o]
            fell = weight * (view.v[at, o] - mean) / (ONE - weight) if ONE - weight > ALONE else mean
            total += slope[a * c + o] * fell
        by_said[at - first, pick] = total * w.counts[2]


@native
def _moved_by_all(table: Table, picked: Ints, vector: Floats, count: int, by_items: Floats) -> None:
    """Without their only edge a user scores as nobody does: by_items (S, K)."""
    for pick in range(len(picked)):
        score = dot(vector, table.vectors[picked[pick]])
        for at in range(count):
            by_items[at, pick] = score
