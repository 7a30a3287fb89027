"""What a store and a scene say of themselves, as frozen dataclasses and as the attributes of their Zarr groups.

Attributes stand under the key "patchstore", so that those of other conventions can stand beside them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, Self, get_args, get_origin

import numpy as np

from patchstore.errors import StoreError

FORMAT = 2
"""Version of the layout on disk; a store of another one is not opened."""
DTYPES = ("uint8", "uint16", "int16", "float32")
"""Pixel types that a store may have."""
KEY = "patchstore"
META = "zarr.json"

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class ClassInfo:
    """One class; its index is its position among the store's classes."""

    name: str
    colour: tuple[int, int, int]
    """Red, green, blue from 0 to 255."""

    @property
    def code(self) -> str:
        """The colour as #RRGGBB."""
        return "#%02X%02X%02X" % self.colour  # noqa: UP031 (the shortest that is clear)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all scenes of a store have in common."""

    dtype: str
    """Type of the pixels, one of DTYPES."""
    bands: int
    classes: tuple[ClassInfo, ...]
    ignore: int = 255
    """Label of pixels that have no class."""
    chunk: int = 256
    """Side of a chunk in pixels; a multiple of 64."""
    shard: int = 2048
    """Side of a shard in pixels; a multiple of the chunk."""
    zstd: int = 1
    """Compression level."""

    def __post_init__(self) -> None:
        names = [info.name for info in self.classes]
        rules = (("dtype", self.dtype in DTYPES, f"one of {', '.join(DTYPES)}", self.dtype),
                 ("bands", self.bands >= 1, "1 or more", self.bands),
                 ("classes", len(set(names)) == len(names), "of different names", names),
                 ("ignore", len(names) <= self.ignore <= 255, f"from {len(names)} (the classes) to 255", self.ignore),
                 ("chunk", self.chunk >= 64 and self.chunk % 64 == 0, "a multiple of 64", self.chunk),
                 ("shard", self.shard >= self.chunk and self.shard % self.chunk == 0, "a multiple of the chunk",
                  self.shard),
                 ("zstd", 1 <= self.zstd <= 19, "from 1 to 19", self.zstd))
        for name, holds, rule, value in rules:
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {value!r}")

    def to_json(self) -> dict[str, Any]:
        """The attributes of the store's root group."""
        classes = [{"index": i, "name": info.name, "colour": info.code} for i, info in enumerate(self.classes)]
        return {"format": FORMAT, **asdict(self), "classes": classes}

    @classmethod
    def from_json(cls, attributes: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError when something is missing or wrong."""
        fields = {name: value for name, value in attributes.items() if name != "format"}
        classes = tuple(ClassInfo(c["name"], colour(c["colour"])) for c in attributes["classes"])
        return cls(**{**fields, "classes": classes})


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene of a store."""

    name: str
    shape: tuple[int, int]
    """Rows and columns at full resolution."""
    crs: str | None
    """Coordinate reference system as WKT."""
    transform: Affine | None
    """a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f, of pixel corners."""
    group: str
    """Scenes of one group show adjoining or the same ground."""
    origin: tuple[int, int]
    """Row and column of the scene's first pixel in its group."""
    fingerprint: str
    """SHA-256 of the source's content and the settings; no path, no time."""
    version: str
    """Folder of the arrays: the first 16 digits of the fingerprint."""
    levels: int
    """Stored levels, the full resolution included."""
    has_mask: bool
    has_valid: bool
    """Whether some pixels may not be real (nodata)."""
    ignored: int
    """Pixels that the mask ignores."""
    ignored_values: tuple[tuple[str, int], ...]
    """The same by the source's value: (#RRGGBB or index or nodata, pixels)."""
    class_pixels: tuple[int, ...]
    """Pixels of each class."""
    band_sums: tuple[tuple[float, float, float], ...]
    """For each band: number, sum and sum of squares of the valid pixels."""
    pixel_m2: float | None
    """Ground area of a pixel in square metres; None where the CRS is absent or in degrees."""
    notes: tuple[str, ...]
    """What was done to the source's files that whoever uses the scene should know (warped to another grid)."""
    manifest: str
    """SHA-256 of the version's manifest."""
    superseded: tuple[str, ...] = ()
    """Earlier versions that still lie in the store."""

    def __post_init__(self) -> None:
        for name, value in (("shape", self.shape), ("levels", (self.levels,))):
            if min(value) < 1:
                raise ValueError(f"{name} must be 1 or more, got {value!r}")

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Width and height of a pixel in units of the CRS."""
        if self.transform is None:
            return None
        a, b, _, d, e, _ = self.transform
        return float(np.hypot(a, d)), float(np.hypot(b, e))

    def to_json(self) -> dict[str, Any]:
        """The attributes of the scene's group."""
        return {**asdict(self), "ignored_values": dict(self.ignored_values), "pixel_size": self.pixel_size}

    @classmethod
    def from_json(cls, attributes: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError when something is missing, unknown, or not of its field's type."""
        found = {name: value for name, value in attributes.items() if name != "pixel_size"}
        found["ignored_values"] = tuple(dict(found["ignored_values"]).items())
        return cls(**found | {field.name: _typed(field.type, found[field.name], field.name) for field in fields(cls)})


def _typed(kind: Any, value: Any, name: str) -> Any:
    """A value out of JSON as the type of its field: tuples for lists, of their length. Raises ValueError."""
    parts = get_args(kind)
    if get_origin(kind) is UnionType:  # X | None
        return None if value is None else _typed(parts[0], value, name)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        if len(kinds) == len(value):
            return tuple(_typed(part, each, name) for part, each in zip(kinds, value))
    if type(value) is kind or (kind is float and type(value) is int):  # a bool is no number here
        return value
    raise ValueError(f"{name} must hold {kind if parts else kind.__name__}, got {value!r}")


def colour(code: str) -> tuple[int, int, int]:
    """Red, green, blue of #RRGGBB. Raises ValueError."""
    if len(code) != 7 or code[0] != "#":
        raise ValueError(f"a colour must be written #RRGGBB, got {code!r}")
    red, green, blue = bytes.fromhex(code[1:])
    return red, green, blue


def group_json(attributes: Mapping[str, Any] | None = None, conventions: Mapping[str, Any] | None = None) -> bytes:
    """A Zarr group's metadata: our attributes under their key, and those of other conventions beside them.

    The same bytes for the same content.
    """
    ours = {KEY: attributes} if attributes else {}
    content = {"zarr_format": 3, "node_type": "group", "attributes": {**ours, **(conventions or {})}}
    return json.dumps(content, indent=1).encode()


def parse_group(content: bytes, what: str, remedy: str) -> dict[str, Any] | None:
    """Our attributes of a Zarr group; None where it has none. Raises StoreError when it is torn."""
    try:
        attributes = json.loads(content)["attributes"]
        ours: dict[str, Any] | None = attributes.get(KEY)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{what}: its {META} is torn or of another kind ({type(error).__name__}: {error}); {remedy}"
                         ) from None
    return ours


def array_json(*, shape: Sequence[int], dtype: str, chunk: Sequence[int], shard: Sequence[int] | None, zstd: int,
               fill: float | bool, names: Sequence[str], attributes: Mapping[str, Any] | None = None) -> bytes:
    """A Zarr array's metadata: zstd and crc32c on what is compressed at once, crc32c on the index of a shard.

    Without the checksum a flipped bit reads as wrong pixels.
    """
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    checked = {"name": "crc32c"}
    codecs: list[dict[str, Any]] = [
        little, {"name": "zstd", "configuration": {"level": zstd, "checksum": False}}, checked]
    if shard is not None:
        codecs = [{"name": "sharding_indexed", "configuration": {
            "chunk_shape": list(chunk), "codecs": codecs, "index_codecs": [little, checked], "index_location": "end"}}]
    content = {"zarr_format": 3, "node_type": "array", "shape": list(shape), "data_type": dtype,
               "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard or chunk)}},
               "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
               "fill_value": fill, "codecs": codecs, "attributes": dict(attributes or {}),
               "dimension_names": list(names)}
    return json.dumps(content, indent=1).encode()


def digest(parts: Sequence[str]) -> str:
    """SHA-256 over some texts, in hexadecimal."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
