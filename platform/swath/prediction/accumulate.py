"""Sums of overlapping windows' scores, and the rows that are finished.

Shapes: K classes, h rows of one piece, s the side of a window and w the width, both on a layer's grid; W scene columns.
"""

from collections.abc import Iterator, Sequence

import torch

from swath.geometry import Region
from swath.prediction.windows import Lattice, finished, support, taps

_PIECE = 2**20
"""Pixels of a piece of finished rows, about: what follows (the highest score, a file) need not hold more at once."""
Piece = tuple[int, torch.Tensor]
"""Finished rows: the scene row of the first, and scores_KhW of the region's columns."""


class Blend:
    """The scores of a region: the mean over layers, one a scale, each blended from its own windows."""

    def __init__(self, classes: int, lattices: Sequence[Lattice], region: Region, device: torch.device) -> None:
        self._layers = [_Layer(classes, lattice, region, device) for lattice in lattices]
        self._row, self._past = region[0]
        self._rows = max(1, _PIECE // (region[1][1] - region[1][0]))

    @property
    def done(self) -> bool:
        """Whether every row has been handed out."""
        return self._row == self._past

    def add(self, layer: int, i: int, j: int, scores_Kss: torch.Tensor) -> Iterator[Piece]:
        """Add the scores of a window (row i, column j of a layer's lattice), in the order in which a layer's windows
        lie; yields the rows that are finished with it."""
        if not self._layers[layer].add(i, j, scores_Kss):
            return
        past = min(each.ready for each in self._layers)
        while self._row < past:
            rows = (self._row, min(self._row + self._rows, past))
            pieces = [each.take(rows) for each in self._layers]
            yield rows[0], sum(pieces[1:], pieces[0]) / len(pieces) if len(pieces) > 1 else pieces[0]
            self._row = rows[1]


class _Layer:
    """Sums over the columns that a region needs: of one row of windows, and of all rows of windows so far.

    Weights along the columns are applied within a row of windows and those along the rows once to its sum. That is
    less work, and with two short sums in place of a long one float32 holds 1e-5 at any overlap.
    """

    def __init__(self, classes: int, lattice: Lattice, region: Region, device: torch.device) -> None:
        self._lattice, self._region, self._device = lattice, region, device
        rows, cols = lattice.touching(region)
        self._row, self._last = rows[0], rows[-1]
        self._last_col = cols[-1]
        self._left, self._right = support(*region[1], lattice.grid, lattice.cols.length)
        width = self._right - self._left
        self._row_Ksw = torch.zeros((classes, lattice.rows.side, width), device=device)
        self._sums_Ksw = torch.zeros_like(self._row_Ksw)
        self._top = int(lattice.rows.starts[self._row])
        """Grid row of the first of both."""
        self._finished_Khw = self._sums_Ksw[:, :0]
        self._first = self._top
        """Grid row of the first that is finished and still wanted."""
        self._weights: dict[int, torch.Tensor] = {}
        low, high, share = taps(*region[1], lattice.grid, lattice.cols.length)
        self._cols = tuple(torch.from_numpy(part).to(device) for part in (low - self._left, high - self._left, share))

    @property
    def ready(self) -> int:
        """The scene row up to which rows can be taken."""
        done, past = self._first + self._finished_Khw.shape[1], self._region[0][1]
        if self._row > self._last:
            return past
        return min(past, finished(done, self._lattice.grid)) if done > 0 else 0

    def add(self, i: int, j: int, scores_Kss: torch.Tensor) -> bool:
        """Add the scores of a window; whether its row of windows is complete with it."""
        if i != self._row:
            raise ValueError(f"a window of row {i} came while row {self._row} of windows is not complete")
        side, cols = self._lattice.cols.side, self._lattice.cols
        if scores_Kss.shape[1] != side:
            scores_Kss = torch.nn.functional.interpolate(scores_Kss[None], (side, side), mode="bilinear",
                                                         antialias=side < scores_Kss.shape[1])[0]
        col = int(cols.starts[j])
        first, past = max(col, self._left), min(col + side, self._right)
        if j not in self._weights:
            self._weights[j] = torch.from_numpy(cols.weights(j)).to(self._device)
        self._row_Ksw[:, :, first - self._left:past - self._left].addcmul_(
            scores_Kss[:, :, first - col:past - col], self._weights[j][first - col:past - col])
        if j == self._last_col:
            self._end_row()
        return j == self._last_col

    def _end_row(self) -> None:
        """End a row of windows: what no later one touches is finished; the sums move down to the next."""
        axis = self._lattice.rows
        weights_s = torch.from_numpy(axis.weights(self._row)).to(self._device)
        self._sums_Ksw.addcmul_(self._row_Ksw, weights_s[:, None])
        self._row_Ksw.zero_()
        below = self._top + axis.side if self._row == self._last else int(axis.starts[self._row + 1])
        count = below - self._top
        self._finished_Khw = torch.cat((self._finished_Khw, self._sums_Ksw[:, :count]), dim=1)
        kept_Khw = self._sums_Ksw[:, count:].clone()
        self._sums_Ksw[:, :kept_Khw.shape[1]] = kept_Khw
        self._sums_Ksw[:, kept_Khw.shape[1]:] = 0
        self._row, self._top = self._row + 1, below

    def take(self, rows: tuple[int, int]) -> torch.Tensor:
        """scores_KhW of scene rows, at full resolution; those above them are forgotten."""
        low, high, share = taps(*rows, self._lattice.grid, self._lattice.rows.length)
        grid_Khw = self._finished_Khw[:, int(low[0]) - self._first:int(high[-1]) + 1 - self._first].clone()
        after = int(taps(rows[1], rows[1] + 1, self._lattice.grid, self._lattice.rows.length)[0][0])
        self._finished_Khw, self._first = self._finished_Khw[:, after - self._first:], after
        if self._lattice.grid == 1:
            return grid_Khw
        low_h, high_h, share_h = (torch.from_numpy(each).to(self._device)
                                  for each in (low - low[0], high - low[0], share))
        high_Khw = torch.lerp(grid_Khw[:, low_h], grid_Khw[:, high_h], share_h[:, None])
        low_W, high_W, share_W = self._cols
        return torch.lerp(high_Khw[:, :, low_W], high_Khw[:, :, high_W], share_W)
