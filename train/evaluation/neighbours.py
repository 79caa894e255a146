"""Exact nearest neighbours by cosine, and the k-NN classifier, in memory that does not grow with the gallery.

Shape suffixes: Q queries, G gallery, D width, N neighbours of a query, K classes.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
NOTHING = torch.iinfo(torch.int64).min  # the rank of a video that is no neighbour: below every similarity
LOW = (1 << 32) - 1
KS = (1, 5, 10)  # of R@k


class Neighbours(NamedTuple):
    """The nearest first; where a query has fewer, the index is -1 and the similarity -inf."""

    index_QN: Ints
    similarity_QN: Floats


def nearest(
    query_QD: Floats, gallery_GD: Floats, count: int, *, chunk: int, device: torch.device,
    groups: tuple[Ints, Ints] | None = None,
) -> Neighbours:  # fmt: skip
    """The `count` rows of the gallery most similar to each query; of equal ones the lower row first.

    groups: a number of each query, int64 [Q], and of each row of the gallery [G]: rows of a query's own number are
    no neighbours of it. chunk: at most chunk x (chunk + count) similarities are held; it does not change the result:
    cosines are computed in float64 and rounded to float32, so that equal features are equally far in any block.
    """
    query, gallery = (torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device) for x in (query_QD, gallery_GD))
    apart = None if groups is None else [torch.from_numpy(numbers).to(device) for numbers in groups]
    found = torch.full((len(query), count), NOTHING, device=device)
    for q in _slices(len(query), chunk):
        query_BD = _unit(query[q])
        for g in _slices(len(gallery), chunk):
            rank_BC = _rank((query_BD @ _unit(gallery[g]).T).float(), first=g.start)
            if apart is not None:
                rank_BC.masked_fill_(apart[0][q, None] == apart[1][None, g], NOTHING)
            found[q] = torch.cat((found[q], rank_BC), 1).topk(count).values
    index_QN = torch.where(found == NOTHING, -1, LOW - (found & LOW))
    similarity_QN = torch.where(found == NOTHING, -torch.inf, _mirrored((found >> 32).int()).view(torch.float32))
    return Neighbours(index_QN.cpu().numpy(), similarity_QN.cpu().numpy())


def votes(found: Neighbours, label_G: Ints, classes: int, temperature: float) -> Floats:
    """Each neighbour votes for its class by exp(similarity / temperature): float32 [Q, K].

    DINO's weighted k-NN (it takes 20 neighbours and 0.07), up to a factor that a query's votes have in common.
    """
    weight_QN = np.exp((found.similarity_QN.astype(np.float64) - found.similarity_QN[:, :1]) / temperature)
    scores_QK = np.zeros((len(weight_QN), classes))
    np.add.at(scores_QK, (np.arange(len(weight_QN))[:, None], label_G[found.index_QN]), weight_QN)
    return scores_QK.astype(np.float32)


def recalls(hit_QN: NDArray[np.bool_], wrong: int = 0, prefix: str = "") -> dict[str, float]:
    """R@k: the share of queries with a hit among their k nearest. wrong: further queries, that have none."""
    return {f"{prefix}r@{k}": int(hit_QN[:, :k].any(1).sum()) / (len(hit_QN) + wrong) for k in KS}


def _rank(similarity_BC: Tensor, first: int) -> Tensor:
    """int64 numbers in the order of (similarity, lower row first), all different: topk leaves the order of ties open.

    The similarity's bits, as an integer of the same order, and under them the row counted from above.
    """
    bits = _mirrored((similarity_BC + 0.0).view(torch.int32)).long()  # + 0.0: -0 becomes 0
    rows = torch.arange(first, first + similarity_BC.shape[1], device=similarity_BC.device)
    return (bits << 32) + (LOW - rows)


def _mirrored(bits: Tensor) -> Tensor:
    """Float32's bits as integers that are ordered as the numbers are, and back: negative ones run the other way."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.double(), dim=1)


def _slices(total: int, chunk: int) -> list[slice]:
    return [slice(first, min(first + chunk, total)) for first in range(0, total, chunk)]
