"""VideoMAE V2's decoder mask (Wang et al. 2023): running cells."""

import numpy as np
from numpy.typing import NDArray


def running_cells(shape: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which tokens the decoder predicts, bool [T, H, W]; True: predicted.

    Cells of 2 x 2 tokens, the same all over a slice: four places in a ring, of which 4 * ratio in a row are
    skipped; from slice to slice the ring turns by one place. rng draws where it starts, so there are four
    such masks, each with exactly (1 - ratio) * T * H * W tokens. Hidden or visible makes no difference here:
    as in V2, visible tokens are among those predicted, and the loss does not count them.

    Errors: ValueError when 4 * ratio is not 0, 1, 2 or 3, or the grid has an odd side.
    """
    t, h, w = shape
    if 4 * ratio not in (0, 1, 2, 3):
        raise ValueError(
            f"decoder ratio {ratio} is not 0, 0.25, 0.5 or 0.75: of a cell's four tokens it skips whole ones"
        )
    if h % 2 or w % 2:
        raise ValueError(f"cells of 2 x 2 tokens do not divide a grid of {h} x {w}: choose an even number of patches")
    slices, rows, columns = np.ogrid[:t, :h, :w]
    place = (2 * (rows % 2) + columns % 2 + int(rng.integers(4)) + slices + 1) % 4
    return np.asarray(place >= 4 * ratio)
