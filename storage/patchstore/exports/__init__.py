"""Cloud-Optimised GeoTIFFs from a store, or from any rows of pixels."""

from patchstore.exports.cog import (
    TILE,
    CogHeader,
    Colour,
    Piece,
    check_crs,
    check_room,
    class_header,
    room_needed,
    write_cog,
)
from patchstore.exports.scenes import export

__all__ = ["TILE", "CogHeader", "Colour", "Piece", "check_crs", "check_room", "class_header", "export", "room_needed",
           "write_cog"]
