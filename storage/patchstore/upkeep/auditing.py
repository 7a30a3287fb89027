"""Whether a store still holds what was written: every file there, whole and its own, and its arrays consistent.

    attributes    parse, and fit each other; the file is byte for byte what is written of them
    manifest      the one that the attributes name by its digest
    files         all that the manifest lists, of their size and SHA-256; metadata as the layout gives it
    pixels        every chunk decoded; counts, moments and coarser levels made anew from full resolution, and held
                  against the stored ones; their totals against the attributes

Not found is what nothing else repeats: another group, origin or note in a scene's attributes.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from patchstore.errors import SourceError, StoreError
from patchstore.format import locations, manifest
from patchstore.format.catalog import need_settings, parse_scene
from patchstore.format.conventions import pixel_m2
from patchstore.format.layout import Layout
from patchstore.format.schema import META, Scene, Settings, group_json
from patchstore.format.windows import levels_of
from patchstore.upkeep.audit_files import FileAudit, list_files
from patchstore.upkeep.audit_pixels import PixelAudit
from patchstore.upkeep.findings import Findings, Ground


@dataclass(frozen=True, kw_only=True)
class SceneAudit:
    """What an audit found of one scene."""

    name: str
    files: int
    """Files in the scene's folder."""
    size: int
    """Their bytes. The listing of an object store tells none: there, of those that the manifest lists."""
    pixels: int = 0
    """Pixels of full resolution; 0 for a scene that is not finished, or whose attributes are damaged."""
    class_pixels: tuple[int, ...] = ()
    """Pixels of each class by the scene's attributes; none where `pixels` is 0."""
    pixel_m2: float | None = None
    """Ground area of a pixel in square metres, where it is known."""
    problems: tuple[str, ...] = ()
    """What is damaged, a line each: scene, array, file."""
    notes: tuple[str, ...] = ()
    """What is no damage: a scene that is not finished, leftovers of a killed ingest, other versions."""


@dataclass(frozen=True, kw_only=True)
class ClassTotal:
    """One class in all scenes of a store."""

    pixels: int
    share: float
    """Of all pixels, those without a label included."""
    km2: float | None
    """Area on the ground; None where it is not known of every scene."""


def scene_names(uri: str | os.PathLike[str]) -> list[str]:
    """Names of all folders of scenes, also of unfinished and damaged ones. Raises StoreError."""
    folder = locations.Folder(locations.normal(uri))
    need_settings(folder)
    return folder.children()


def audit_scene(uri: str | os.PathLike[str], name: str, *, sample: float = 1.0, seed: int = 0) -> SceneAudit:
    """Audit one scene of a store. One that never had attributes is not finished, which is a note and no problem.

    With `sample` below 1 a quick look: whether all files are there, the size of each (of local ones) and the content
    of the small ones; and, for a share `sample` of the shards of full resolution (at least one, drawn by seed and
    name), digest and pixels of these, of the shards of all levels over them, and of their cells. Totals are compared
    only where that is the whole scene.

    Raises StoreError when there is no store or it cannot be read; what is damaged in the scene is a problem, and no
    exception. ValueError when `sample` is not above 0 and at most 1.
    """
    if not 0 < sample <= 1:
        raise ValueError(f"sample must be above 0 and at most 1, got {sample}")
    folder = locations.Folder(locations.normal(uri))
    settings = need_settings(folder)
    content, listing = _look(folder, name)
    found = SceneAudit(name=name, files=len(listing), size=sum(size or 0 for size in listing.values()))
    if content is None:
        return _without_attributes(found, listing)
    try:
        scene = parse_scene(folder.uri, name, content)
    except StoreError as error:
        return replace(found, problems=(str(error).removeprefix(f"{folder.uri}: "),))
    findings = Findings(scene=name)
    for problem in _contradictions(settings, scene):
        findings.say(problem)
    if findings.lines():  # another scene's, perhaps: nothing here can be held against them
        return replace(found, problems=findings.lines())
    for problem in _altered(scene, content):
        findings.say(problem)
    layout = Layout(settings=settings, scene=scene)
    ground = Ground.choose(layout, sample, seed)
    own = {place.removeprefix(f"{scene.version}/"): size for place, size in listing.items()
           if place.startswith(f"{scene.version}/")}
    listed = FileAudit(folder=folder, layout=layout, listing=own, ground=ground, findings=findings).run()
    PixelAudit(uri=folder.uri, layout=layout, ground=ground, findings=findings).run()
    unlisted = sum(file.size for place, file in listed.items() if place in own and own[place] is None)
    return replace(found, size=found.size + unlisted, pixels=scene.shape[0] * scene.shape[1],
                   class_pixels=scene.class_pixels, pixel_m2=scene.pixel_m2, problems=findings.lines(),
                   notes=tuple(_leftovers(scene, listing, {manifest.PLACE, *listed} if listed else own)))


def audit(uri: str | os.PathLike[str], *, sample: float = 1.0, seed: int = 0) -> list[SceneAudit]:
    """Audit all scenes of a store, one after another, as `audit_scene` does each. Raises as it does."""
    return [audit_scene(uri, name, sample=sample, seed=seed) for name in scene_names(uri)]


def class_totals(audits: Sequence[SceneAudit], classes: Sequence[str]) -> dict[str, ClassTotal]:
    """The classes of a store, given their names in order, in all scenes that could be audited."""
    counted = [audit for audit in audits if audit.pixels]
    pixels = max(1, sum(audit.pixels for audit in counted))
    known = bool(counted) and all(audit.pixel_m2 is not None for audit in counted)
    totals = {}
    for k, name in enumerate(classes):
        of_class = sum(audit.class_pixels[k] for audit in counted)
        area_m2 = sum(audit.class_pixels[k] * (audit.pixel_m2 or 0) for audit in counted)
        totals[name] = ClassTotal(pixels=of_class, share=of_class / pixels, km2=area_m2 / 1e6 if known else None)
    return totals


def _look(folder: locations.Folder, name: str) -> tuple[bytes | None, Mapping[str, int | None]]:
    """A scene's metadata, and its files: all of them where there is metadata, as it is written last."""
    content = folder.read([f"{name}/{META}"])[0]
    listing = list_files(folder, name)
    if content is None and _finished(listing):  # meanwhile, perhaps
        content = folder.read([f"{name}/{META}"])[0]
    return content, listing


def _finished(listing: Collection[str]) -> list[str]:
    """Versions that an ingest has written as a whole: their manifest comes just before the scene's attributes."""
    return sorted(version for version, _, place in (key.partition("/") for key in listing) if place == manifest.PLACE)


def _without_attributes(found: SceneAudit, listing: Collection[str]) -> SceneAudit:
    if versions := _finished(listing):
        return replace(found, problems=(
            f"scene {found.name}: was finished, as version {versions[-1]} has a manifest, but its attributes are gone "
            f"(no {META}; only a kill in the moment between both, or in a removal, leaves the same); ingest this scene "
            "again, or remove it",))
    return replace(found, notes=(f"scene {found.name}: not finished, {len(listing)} files without attributes; its "
                                 "ingest goes on, or was cut off and is to be run again",))


def _contradictions(settings: Settings, scene: Scene) -> Iterator[str]:
    """What in a scene's attributes cannot be true together."""
    for field, value, right in (("version", scene.version, scene.fingerprint[:16]),
                                ("levels", scene.levels, levels_of(scene.shape)),
                                ("class_pixels (its length)", len(scene.class_pixels), len(settings.classes)),
                                ("band_sums (its length)", len(scene.band_sums), settings.bands)):
        if value != right:
            yield f"attribute {field} is {value!r}, but must be {right!r}; remove this scene and ingest it again"


def _altered(scene: Scene, content: bytes) -> Iterator[str]:
    """What of a scene's metadata was not written so: all that can be made anew from the rest of it."""
    if content != group_json(scene.to_json()):
        yield f"{META}: not the metadata that its own attributes give; remove this scene and ingest it again"
    ignored = sum(pixels for _, pixels in scene.ignored_values)
    if scene.ignored != ignored:
        yield f"attribute ignored is {scene.ignored}, but ignored_values add up to {ignored}"
    try:
        area_m2 = pixel_m2(scene.crs, scene.transform)
    except SourceError:  # which the audit of metadata says
        return
    if scene.pixel_m2 != area_m2:
        yield f"attribute pixel_m2 is {scene.pixel_m2}, but CRS and transform give {area_m2}"


def _leftovers(scene: Scene, listing: Mapping[str, int | None], own: Collection[str]) -> Iterator[str]:
    """What lies in a scene's folder beside the files of its version."""
    expected = {META, *(f"{scene.version}/{place}" for place in own)}
    rest = sorted(listing.keys() - expected)
    others = sorted({place.partition("/")[0] for place in rest if "/" in place} - {scene.version})
    stray = [place for place in rest if place.partition("/")[0] not in others]
    if others:
        yield f"scene {scene.name}: beside the current version lie {', '.join(others)}"
    if stray:
        yield f"scene {scene.name}: {len(stray)} files that no array has and nothing reads, first {stray[0]}"
