"""The bands of a map on disk: how a region is cut, what is missing, and what another job has left."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.errors import DataError
from swath.maps import bands
from swath.maps.bands import ROWS, Bands, cut


def held(folder: Path, rows: tuple[int, int] = (0, 2500)) -> Bands:
    return Bands(folder=folder, rows=rows, width=3, layers=2)


def band(rows: int, value: int) -> np.ndarray:
    return np.full((2, rows, 3), value, np.uint8)


@given(st.integers(0, 5000), st.integers(1, 9000), st.integers(1, 5))
def test_bands_cover_the_region_whatever_is_done_at_once(first: int, rows: int, most: int) -> None:
    ranges = held(Path("nowhere"), (first, first + rows)).ranges
    assert ranges[0][0] == first
    assert ranges[-1][1] == first + rows
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert {past - start for start, past in ranges[:-1]} <= {ROWS}
    pieces = cut([(first, first + rows)], most)
    assert [row for start, past in pieces for row in range(start, past, ROWS)] == [start for start, _ in ranges]
    assert all(-(-(past - start) // ROWS) <= most for start, past in pieces)


def test_what_is_missing_is_told_as_few_stretches(tmp_path: Path) -> None:
    each = held(tmp_path, (100, 100 + 5 * ROWS + 7))
    each.begin({}, resume=False)
    assert each.missing() == [(100, 100 + 5 * ROWS + 7)]
    each.write(100 + ROWS, band(ROWS, 1))
    each.write(100 + 5 * ROWS, band(7, 2))
    assert each.missing() == [(100, 100 + ROWS), (100 + 2 * ROWS, 100 + 5 * ROWS)]
    assert each.missing((100 + 2 * ROWS, 100 + 4 * ROWS)) == [(100 + 2 * ROWS, 100 + 4 * ROWS)]
    assert each.missing((100 + ROWS, 100 + 2 * ROWS)) == []


def test_pieces_come_from_the_top_and_are_checked(tmp_path: Path) -> None:
    each = held(tmp_path)
    each.begin({}, resume=False)
    for number, (first, past) in reversed(list(enumerate(each.ranges))):
        each.write(first, band(past - first, number))
    assert [(row, int(piece[0, 0, 0]), piece.shape) for row, piece in each.pieces(slice(1, 2))] == [
        (0, 0, (1, ROWS, 3)), (ROWS, 1, (1, ROWS, 3)), (2 * ROWS, 2, (1, 2500 - 2 * ROWS, 3))]
    np.save(tmp_path / "00001.npy", band(5, 0))
    with pytest.raises(DataError, match=r"00001.npy: holds uint8 \(2, 5, 3\), not a band"):
        list(each.pieces(slice(0, 1)))


def test_only_the_same_job_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "map[1].tif"
    one, other = ({"model": "m", "overlap": overlap, "region": ((0, 1), (2, 3))} for overlap in (0.5, 0.25))
    each = held(bands.folder_of(output, one))
    each.begin(one, resume=True)
    each.write(0, band(ROWS, 1))
    (each.folder / "half-written").mkdir()
    each.begin(one, resume=True)
    assert each.missing() == [(ROWS, 2500)]
    assert not (each.folder / "half-written").exists()
    assert bands.others(output, one) == {}
    assert bands.others(output, other) == {each.folder: ["overlap"]}
    (each.folder / bands.CARD).write_text('{"mod')
    assert bands.others(output, other) == {each.folder: ["model", "overlap", "region"]}
    each.begin(one, resume=False)
    assert each.missing() == [(0, 2500)]
    each.clear()
    with pytest.raises(DataError, match="was removed while its map was made"):
        each.write(0, band(ROWS, 1))


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY"])
def test_a_damaged_band_is_named(tmp_path: Path, content: bytes) -> None:
    each = held(tmp_path / "a", (0, 5))
    each.begin({}, resume=False)
    (each.folder / "00000.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"00000.npy: cannot be read .*; remove it, and predict again with --resume"):
        list(each.pieces(slice(0, 1)))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a: cannot be written"):
        held(tmp_path / "file" / "a").begin({}, resume=False)


def test_a_digest_stands_for_a_job() -> None:
    assert bands.digest({"a": 1, "b": 2}) == bands.digest({"b": 2, "a": 1}) != bands.digest({"a": 1, "b": 3})
