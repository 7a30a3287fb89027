"""Adapters: each set's layout on small files, what is rejected and why, and the real sets where they are."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchstore
from patchstore import Found, SourceError
from patchstore.sources.datasets.class_table import read_table
from patchstore.sources.pairing import _wild
from support.paths import DATA
from support.rasters import random_image, write

real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real imagery at {DATA}; $SWATH_DATA names its folder")


def lay(folder: Path, *files: str) -> Path:
    """Empty files: most adapters look at names alone."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(found: Found) -> list[str]:
    return [scene.name for scene in found.scenes]


def below(folder: Path, path: Path | None) -> str:
    return "" if path is None else path.relative_to(folder).as_posix()


def test_an_adapter_that_is_not_registered_is_refused_with_a_near_name() -> None:
    with pytest.raises(patchstore.SettingError, match=r"^adapter must be one of folder, .*, got 'tile'; did you mean"):
        patchstore.find("tile", Path("."))


def test_an_adapter_may_be_a_function_of_ones_own(tmp_path: Path) -> None:
    def one_image(folder: Path, *, ending: str) -> Found:
        return Found(scenes=(patchstore.SceneSource(name="a", image=folder / f"a.{ending}", group="a"),), rejected=())

    scene, = patchstore.find(one_image, tmp_path, crs="EPSG:2180", ending="tif").scenes
    assert (scene.image, scene.crs) == (tmp_path / "a.tif", "EPSG:2180")


def test_crs_and_align_are_for_every_scene(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.tif", "masks/a.tif", "images/b.tif", "masks/b.tif")
    for adapter in ("folder", "landcover_ai"):
        found = patchstore.find(adapter, tmp_path, crs="EPSG:2180", align=True)
        assert [(s.name, s.group, s.crs, s.align) for s in found.scenes] == [("a", "a", "EPSG:2180", True),
                                                                             ("b", "b", "EPSG:2180", True)]


def test_every_single_problem_is_a_line(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.tif", "images/b.tif", "images/c.tif", "images/c.jpg", "images/d.tif", "images/__e.tif",
        "masks/a.png", "masks/c.png", "masks/d.png", "masks/d.tif", "masks/f.png", "masks/__e.png", "masks/.hidden.png")
    found = patchstore.find_folder(tmp_path)
    assert names(found) == ["a"]
    where = {line.split(":")[0].removeprefix(f"{tmp_path}/"): line for line in found.rejected}
    assert where.keys() == {"images/b.tif", "images/c.tif", "images/c.jpg", "images/d.tif", "images/__e.tif",
                            "masks/d.png", "masks/d.tif", "masks/f.png"}
    assert len(found.rejected) == len(where)
    for name, part in (("images/b.tif", f"no mask of the same name among {tmp_path}/masks/*"),
                       ("images/c.jpg", "name of another image"), ("images/d.tif", "several files as its mask (d.p"),
                       ("images/__e.tif", "'__e' cannot name a scene"), ("masks/d.tif", "name of another mask"),
                       ("masks/f.png", "no image of the same name")):
        assert part in where[name]


def test_same_names_in_several_folders_are_several_scenes(tmp_path: Path) -> None:
    lay(tmp_path, "images/a/1.tif", "images/b/1.tif", "images/b/2.tif", "masks/a/1.png", "masks/b/1.png",
        "masks/a/2.png")
    found = patchstore.find_folder(tmp_path, "images/**/*.tif", "masks/**/*")
    assert [(s.name, below(tmp_path, s.mask)) for s in found.scenes] == [("a_1", "masks/a/1.png"),
                                                                         ("b_1", "masks/b/1.png")]
    assert len(found.rejected) == 2  # b/2 has no mask, and a/2's is not its own
    one = patchstore.find_folder(tmp_path, "images/b/*.tif", masks="")
    assert names(one) == ["1", "2"]  # no name twice: no folders
    lay(tmp_path, "images/a_1.tif", "masks/a_1.png")
    found = patchstore.find_folder(tmp_path, "images/**/*.tif", "masks/**/*")
    assert names(found) == ["b_1"]
    assert sum("another image would be scene a_1 too" in line for line in found.rejected) == 2


def test_folders_that_patterns_name_are_no_part_of_a_place(tmp_path: Path) -> None:
    for site in ("north", "south"):
        lay(tmp_path, f"{site}/rgb/1_rgb.tif", f"{site}/labels/1-labels.tif")
    found = patchstore.find_folder(tmp_path, "*/rgb/*.tif", "*/labels/*", r"^([a-z]+)_", image_suffix="_rgb",
                                   mask_suffix="-labels")
    assert [(s.name, s.group, below(tmp_path, s.mask)) for s in found.scenes] == [
        ("north_1", "north", "north/labels/1-labels.tif"), ("south_1", "south", "south/labels/1-labels.tif")]
    assert found.rejected == ()


PART = st.text("ab", min_size=1, max_size=2)


@given(st.lists(st.tuples(st.sampled_from(["*", "**", "literal", "[ab]*"]), st.lists(PART, max_size=3)), max_size=4))
def test_what_wildcards_match_is_found_again(parts: list[tuple[str, list[str]]]) -> None:
    """A path made from a pattern fits it, and keeps every folder that is not named by the pattern."""
    pattern = tuple(part for part, _ in parts)
    filled = [given if part == "**" else [part] if part == "literal" else ["ab"] for part, given in parts]
    folders = tuple(name for part in filled for name in part)
    found = _wild(folders, pattern)
    assert found is not None
    assert found == tuple(name for name in folders if name != "literal")
    assert _wild((*folders, "literal!"), (*pattern, "literal")) is None


def test_masks_may_stand_beside_their_images(tmp_path: Path) -> None:
    lay(tmp_path, "a.tif", "a_mask.tif", "b.tif", "b_mask.tif", "a.tif.aux.xml")
    found = patchstore.find_folder(tmp_path, "*", "*_mask.tif", mask_suffix="_mask")
    assert [(s.name, below(tmp_path, s.mask)) for s in found.scenes] == [("a", "a_mask.tif"), ("b", "b_mask.tif")]
    assert found.rejected == ()


def test_stacked_files_and_areas(tmp_path: Path) -> None:
    lay(tmp_path, "rgb/a_rgb.tif", "rgb/b_rgb.tif", "nir/a_nir.tif", "nir/b_nir.tif", "dsm/a_dsm.tif", "aoi.geojson",
        "areas/a.gpkg", "areas/b.gpkg", "areas/c.gpkg")
    suffix = "_(rgb|nir|dsm)"
    found = patchstore.find_folder(tmp_path, "rgb/*", "", stacked=("nir/*", "dsm/*"), image_suffix=suffix,
                                   area="aoi.geojson")
    scene, = found.scenes
    assert (scene.name, scene.mask, below(tmp_path, scene.area)) == ("a", None, "aoi.geojson")
    assert [below(tmp_path, path) for path in scene.stacked] == ["nir/a_nir.tif", "dsm/a_dsm.tif"]
    assert found.rejected == (f"{tmp_path}/rgb/b_rgb.tif: has no stacked file of the same name among {tmp_path}/dsm/*",)
    by_scene = patchstore.find_folder(tmp_path, "rgb/*", "", image_suffix=suffix, area="areas/*")
    assert [below(tmp_path, s.area) for s in by_scene.scenes] == ["areas/a.gpkg", "areas/b.gpkg"]
    assert by_scene.rejected == (f"{tmp_path}/areas/c.gpkg: has no image of the same name",)


def test_one_vector_file_labels_every_scene(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.tif", "images/b.tif",
        *(f"masks/land.{ending}" for ending in ("shp", "shx", "dbf", "prj", "cpg")))
    found = patchstore.find_folder(tmp_path)
    assert [(s.name, below(tmp_path, s.mask)) for s in found.scenes] == [("a", "masks/land.shp"),
                                                                         ("b", "masks/land.shp")]
    assert found.rejected == ()
    lay(tmp_path, "masks/a.gpkg")  # several are paired
    found = patchstore.find_folder(tmp_path)
    assert names(found) == ["a"]
    assert len(found.rejected) == 2


@pytest.mark.parametrize(("arguments", "said"), [
    ({"images": "nothing/*"}, "no image found by the pattern 'nothing/*'"),
    ({"masks": "nothing/*"}, "no mask found by the pattern 'nothing/*'"),
    ({"images": "/images/*"}, "must be relative to the folder"),
    ({"images": "images/**.tif"}, "pattern of the images 'images/**.tif' is wrong"),
    ({"image_suffix": "_("}, "suffix: '_(' is not a regular expression"),
    ({"group": "("}, "group: '(' is not a regular expression"),
    ({"group": "a"}, "'a' is not a regular expression with a group"),
])
def test_patterns_that_cannot_serve_are_refused(tmp_path: Path, arguments: dict[str, str], said: str) -> None:
    lay(tmp_path, "images/a.tif", "masks/a.tif")
    with pytest.raises(SourceError, match=re.escape(said)):
        patchstore.find_folder(tmp_path, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("adapter", patchstore.ADAPTERS)
def test_a_folder_of_something_else_is_an_error(tmp_path: Path, adapter: str) -> None:
    lay(tmp_path, "readme.txt")
    with pytest.raises(SourceError, match=str(tmp_path)):
        patchstore.find(adapter, tmp_path)
    with pytest.raises(SourceError, match="nowhere: is not a folder"):
        patchstore.find(adapter, tmp_path / "nowhere")


def test_landcover_ai(tmp_path: Path) -> None:
    sheets = ("M-33-20-D-c-4-2", "M-34-20-D-c-4-2")
    lay(tmp_path, *(f"{part}/{name}.tif" for part in ("images", "masks") for name in sheets), "train.txt", "split.py")
    found = patchstore.find_landcover_ai(tmp_path)
    assert [(s.name, s.group) for s in found.scenes] == [(name, name) for name in sheets]
    assert [info.name for info in found.classes] == ["background", "building", "woodland", "water", "road"]
    assert len({info.colour for info in found.classes}) == 5
    assert found.rejected == ()


def test_deepglobe_in_its_folders(tmp_path: Path) -> None:
    lay(tmp_path, "train/1_sat.jpg", "train/1_mask.png", "train/2_sat.jpg", "train/3_sat.jpg", "train/3_mask.png",
        "train/9_mask.png", "valid/4_sat.jpg", "valid/5_sat.jpg", "metadata.csv")
    found = patchstore.find_deepglobe(tmp_path)
    assert {s.name: below(tmp_path, s.mask) for s in found.scenes} == {
        "1": "train/1_mask.png", "3": "train/3_mask.png", "4": "", "5": ""}
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in sorted(found.rejected)] == ["2_sat.jpg", "9_mask.png"]
    assert [info.code for info in found.classes] == ["#00FFFF", "#FFFF00", "#FF00FF", "#00FF00", "#0000FF", "#FFFFFF"]
    assert found.ignored == ("#000000",)
    valid = patchstore.find_deepglobe(tmp_path / "valid")
    assert [(s.name, s.mask) for s in valid.scenes] == [("4", None), ("5", None)]


def test_deepglobe_with_masks_in_folders_of_their_own(tmp_path: Path) -> None:
    lay(tmp_path, "images/1_sat.tif", "images/2_sat.tif", "images/3_sat.tif", "more/1_sat.tif", "masks/1_mask.tif",
        "masks/2_mask.tif")
    found = patchstore.find_deepglobe(tmp_path)
    assert [(s.name, below(tmp_path, s.mask)) for s in found.scenes] == [("2", "masks/2_mask.tif")]
    assert len(found.rejected) == 3  # 1 is there twice, 3 is without its mask


def test_deepglobe_with_a_class_table(tmp_path: Path) -> None:
    lay(tmp_path, "train/1_sat.tif", "train/1_mask.tif")
    (tmp_path / "class_dict.csv").write_text("\ufeffR, G ,b,Name\n0,0,0,Unknown\n\n34, 97,38 ,old wood\n1,2,3,sea\n")
    for source in (tmp_path, tmp_path / "train"):
        found = patchstore.find_deepglobe(source)
        assert [(info.name, info.colour) for info in found.classes] == [("old wood", (34, 97, 38)),
                                                                        ("sea", (1, 2, 3))]
        assert found.ignored == ("#000000",)
    lay(tmp_path, "train/CLASS_DICT.csv")
    with pytest.raises(SourceError, match="has several class tables"):
        patchstore.find_deepglobe(tmp_path)


@pytest.mark.parametrize(("text", "said"), [
    ("", "must name the columns name, r, g, b"),
    ("urban,0,255,255\n", "name, r, g, b is not among them"),
    ("name,r,g\nurban,0,255\n", "b is not among them"),
    ("name,r,g,b\n", "has no class below its header"),
    ("name,r,g,b\nurban,0,255\n", "line 2: has 3 columns"),
    ("name,r,g,b\n\nurban,0,255,x\n", "line 3: r, g, b must be whole numbers, got 0, 255, x"),
    ("name,r,g,b\nurban,0,255,256\n", "line 2: must have a name, and r, g, b from 0 to 255"),
    ("name,r,g,b\n,0,255,25\n", "line 2: must have a name"),
    ("name,r,g,b\na,0,0,1\na,0,0,2\n", "line 3: the class a stands above"),
])
def test_class_tables_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SourceError, match=rf"t\.csv.*{said}"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(SourceError, match=r"none\.csv: cannot be read"):
        read_table(tmp_path / "none.csv")


def test_icg_drone(tmp_path: Path) -> None:
    root = "dataset/semantic_drone_dataset"
    lay(tmp_path, f"{root}/original_images/000.jpg", f"{root}/original_images/001.jpg",
        f"{root}/label_images_semantic/000.png", f"{root}/label_images_semantic/001.png",
        "RGB_color_image_masks/RGB_color_image_masks/000.png")
    with pytest.raises(SourceError, match=r"there is no class_dict_seg\.csv"):
        patchstore.find_icg_drone(tmp_path)
    (tmp_path / "class_dict_seg.csv").write_text("name, r, g, b\nunlabeled, 0, 0, 0\npaved-area, 128, 64, 128\n")
    for source in (tmp_path, tmp_path / root):
        found = patchstore.find_icg_drone(source)
        assert [(s.name, s.group, below(tmp_path, s.mask)) for s in found.scenes] == [
            (name, name, f"{root}/label_images_semantic/{name}.png") for name in ("000", "001")]
        assert [(info.name, info.colour) for info in found.classes] == [("unlabeled", (0, 0, 0)),
                                                                        ("paved-area", (128, 64, 128))]
    lay(tmp_path, "copy/original_images/000.jpg")
    with pytest.raises(SourceError, match="must have one folder original_images below it, has 2"):
        patchstore.find_icg_drone(tmp_path)


def test_obx_by_both_kinds_of_mask_name(tmp_path: Path) -> None:
    lay(tmp_path, "img/2018-10-06_15.28.51-N.jpg", "gt/2018-10-06_15.28.51-N_mask.jpg", "img/b.jpg",
        "gt/b_label_greyscale_mask.jpg")
    found = patchstore.find_obx(tmp_path)
    assert names(found) == ["2018-10-06_15.28.51-N", "b"]
    assert (len(found.classes), found.rejected) == (3, ())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the rasters made here
def test_tiles_say_which_part_is_not_usable(tmp_path: Path) -> None:
    for tile in (1, 2):
        for part in range(1, 10):
            write(tmp_path / f"Tile {tile}/images/image_part_00{part}.jpg", random_image((20, 30)))
            lay(tmp_path, f"Tile {tile}/masks/image_part_00{part}.png")
    (tmp_path / "Tile 1/masks/image_part_005.png").unlink()
    found = patchstore.find_tiles(tmp_path)
    assert len(found.scenes) == 17
    assert [s.origin for s in found.scenes if s.name == "tile_1_part_009"] == [(40, 60)]
    assert [line.split(":")[0] for line in found.rejected] == [f"{tmp_path}/Tile 1/images/image_part_005.jpg"]
    (tmp_path / "Tile 2/images/image_part_003.jpg").unlink()
    found = patchstore.find_tiles(tmp_path)
    assert {s.group for s in found.scenes} == {"tile_1"}
    assert len(found.rejected) == 1 + 1 + 8  # without its neighbour nobody knows where a part of tile 2 lies
    (tmp_path / "Tile 1/images/image_part_001.jpg").write_bytes(b"no raster")
    assert patchstore.find_tiles(tmp_path).scenes == ()


@real
def test_real_sets_pair_whole() -> None:
    obx = patchstore.find("obx", DATA / "obx")
    assert (len(obx.scenes), obx.rejected) == (165, ())
    dubai = patchstore.find("tiles", DATA / "dubai")
    assert (len(dubai.scenes), dubai.rejected, len({s.group for s in dubai.scenes})) == (72, (), 8)
    naip = patchstore.find("folder", DATA / "naip", images="naip/*.tif", masks="", group=r"^(m_\d+_se_14)")
    assert (len(naip.scenes), naip.rejected, {s.mask for s in naip.scenes}) == (10, (), {None})
    assert {s.group for s in naip.scenes} == {"m_4709963_se_14"}
