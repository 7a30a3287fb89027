"""What a store's metadata files say: its settings and its scenes."""

from patchstore.errors import StoreError
from patchstore.format.locations import Folder
from patchstore.format.schema import FORMAT, KEY, META, Scene, Settings, parse_group


def array_path(scene: Scene, array: str, level: int | None = None) -> str:
    """Place of an array below the store: SCENE/VERSION/0/image, SCENE/VERSION/counts."""
    return f"{scene.name}/{scene.version}/" + (array if level is None else f"{level}/{array}")


def load_settings(folder: Folder) -> Settings | None:
    """The settings of a store; None where nothing is. Raises StoreError for anything but a store of this format."""
    content = folder.read([META])[0]
    if content is None:
        return None
    attributes = parse_group(content, folder.uri, "it is no store, or a damaged one: give another place, or delete it "
                             "and ingest the scenes again")
    if not attributes:
        raise StoreError(f"{folder.uri}: a Zarr group or array, but not a store of scenes; give another place")
    if attributes.get("format") != FORMAT:
        raise StoreError(f"{folder.uri}: a store of format {attributes.get('format')!r}, but this program reads format "
                         f"{FORMAT}; ingest the scenes again into a new store, or use the program that wrote it")
    try:
        return Settings.from_json(attributes)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder.uri}: the store's attributes are damaged ({type(error).__name__}: {error}); delete "
                         "it and ingest the scenes again") from None


def need_settings(folder: Folder) -> Settings:
    """As `load_settings`, but raises StoreError where there is no store."""
    settings = load_settings(folder)
    if settings is None:
        raise StoreError(f"{folder.uri}: no store is there (no {META}); check the path, or ingest scenes into it first")
    return settings


def load_scenes(folder: Folder) -> dict[str, Scene]:
    """The scenes of a store, by name; unfinished ones, which have no metadata yet, are left out. Raises StoreError."""
    names = folder.children()
    contents = folder.read([f"{name}/{META}" for name in names])
    return {name: parse_scene(folder.uri, name, content)
            for name, content in zip(names, contents) if content is not None}


def load_scene(folder: Folder, name: str) -> Scene | None:
    """One scene; None where no ingest of it has finished. Raises StoreError."""
    content = folder.read([f"{name}/{META}"])[0]
    return None if content is None else parse_scene(folder.uri, name, content)


def parse_scene(uri: str, name: str, content: bytes) -> Scene:
    """A scene from its metadata file. Raises StoreError when it is torn, or not what an ingest has written."""
    what = f"{uri}: scene {name}"
    attributes = parse_group(content, what, "ingest this scene again")
    if not attributes:  # an ingest writes the file with them; without, the scene would be gone in silence
        raise StoreError(f"{what}: its attributes are gone (no {KEY!r} in its {META}); ingest this scene again")
    try:
        scene = Scene.from_json(attributes)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{what}: its attributes are damaged ({type(error).__name__}: {error}); ingest this scene "
                         "again") from None
    if scene.name != name:  # it would stand for the other, and this one would be gone in silence
        raise StoreError(f"{what}: its attributes are those of scene {scene.name}; ingest this scene again")
    return scene
