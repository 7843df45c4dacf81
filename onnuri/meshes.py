"""Meshes as files and as voxels: reading with their colours, filling, and the surface of voxels.

What is too large or does not come whole is refused before it is parsed. Knows no codec and no
model.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from skimage.measure import marching_cubes

from onnuri.errors import MediaError
from onnuri.formats import Format
from onnuri.modality import VOXELS

Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=float)
"""glTF has y up and z towards the viewer; the world has z up and y away from the viewer"""
GREY = 160
"""of a surface that names no colour"""
TINY = 0.05
"""extent below which a mesh is of another unit than the world's, and is scaled up"""
MOST_TESTS = 40_000_000
"""of a line against a face, in filling: some 4 s"""
CHUNK_TESTS = 1_000_000
"""of those at once: some 100 MB"""
COMPRESSED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt"}
"""glTF extensions without which there are no vertices, and that are not read"""


def read(
    data: bytes, form: Format, name: str, most_faces: int, beside: Path | None = None
) -> np.ndarray:
    """Voxels uint8 [64, 64, 64, 4] of a mesh's file; y is up in the file, z in the array. A file's
    materials may lie `beside` it, in that folder. Raises MediaError."""
    linear = _check_whole(data, form, name, most_faces, beside)
    try:
        resolver = trimesh.resolvers.FilePathResolver(str(beside)) if beside else None
        scene: Any = trimesh.load_scene(
            io.BytesIO(data), file_type=form.decoder, process=False, resolver=resolver
        )
        parts = [
            (scene.geometry[geometry], matrix)
            for matrix, geometry in (scene.graph.get(node) for node in scene.graph.nodes_geometry)
        ]
        parts = [
            (part, matrix)
            for part, matrix in parts
            if isinstance(part, trimesh.Trimesh) and len(part.faces)
        ]
        _check_faces(sum(len(part.faces) for part, _ in parts), name, most_faces)
        mesh = _joined(parts, linear)
    except MediaError:
        raise
    except Exception:  # trimesh raises whatever its parsers meet
        raise damaged(form, name) from None
    check(mesh, name, most_faces)
    mesh.apply_transform(Z_UP)
    voxels = voxels_of(mesh, name)
    if voxels[..., 3].max() < 128:
        raise MediaError(
            name,
            "encloses nothing: a flat or open surface has no inside to be seen",
            "give a closed mesh, with some thickness",
            code="nothing_inside",
        )
    return voxels


def damaged(form: Format, name: str) -> MediaError:
    return MediaError(
        name,
        f"is damaged: it begins as {form.name} does and does not go on so",
        "give the whole file",
        code="damaged_file",
        format=form.name,
    )


def check(mesh: Any, name: str, most_faces: int) -> None:
    """Raises MediaError for a mesh without a surface or with values that are not numbers."""
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise MediaError(name, "has no face", "give a mesh with a surface", code="no_face")
    _check_faces(len(mesh.faces), name, most_faces)
    if not np.isfinite(mesh.vertices).all():
        raise MediaError(
            name,
            "has vertices that are not numbers",
            "give a mesh without NaN or infinity",
            code="not_numbers",
        )
    if mesh.extents is None or float(np.max(mesh.extents)) <= 1e-9:
        raise MediaError(
            name, "has no extent", "give a mesh that is larger than a point", code="no_extent"
        )


def _check_faces(count: int, name: str, most: int) -> None:
    if count > most:
        raise MediaError(
            name,
            f"has {count} faces, at most {most} are read",
            "simplify it",
            code="too_many_faces",
            most=most,
        )


def _check_whole(
    data: bytes, form: Format, name: str, most_faces: int, beside: Path | None
) -> bool:
    """Refuse, before anything is parsed, what is too large or lies elsewhere. Returns whether plain
    colours are linear."""
    if form.name in ("GLB", "glTF"):
        return _check_gltf(data, form, name, most_faces)
    count = {"STL": _stl_faces, "PLY": _ply_faces, "OBJ": lambda d: d.count(b"\nf ")}.get(
        form.name, lambda d: 0
    )(data)
    _check_faces(count, name, most_faces)
    if form.name == "OBJ":
        _check_materials(data, name, beside)
    return False


def _check_gltf(data: bytes, form: Format, name: str, most_faces: int) -> bool:
    try:
        about = json.loads(
            data[20 : 20 + struct.unpack("<I", data[12:16])[0]] if form.name == "GLB" else data
        )
        used = {*about.get("extensionsUsed", ()), *about.get("extensionsRequired", ())}
        elsewhere = [
            str(x["uri"])
            for x in (*about.get("buffers", ()), *about.get("images", ()))
            if not str(x.get("uri", "data:")).startswith("data:")
        ]
        counts = about.get("accessors", [])
        faces = 0
        for mesh in about.get("meshes", ()):
            for part in mesh["primitives"]:
                at = part.get("indices", part["attributes"]["POSITION"])
                faces += int(counts[at]["count"]) // 3
        writer = str(about["asset"].get("generator", ""))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        struct.error,
        RecursionError,
    ):
        raise damaged(form, name) from None
    for extension, method in COMPRESSED.items():
        if extension in used:
            raise MediaError(
                name,
                f"is compressed with {method}, which is not read",
                "save it without compression",
                code="compressed_mesh",
                method=method,
            )
    if elsewhere:
        raise MediaError(
            name,
            f"has parts in another file ({elsewhere[0]:.60}), which did not come with it",
            "give a GLB, which has all in it",
            code="other_file",
        )
    _check_faces(faces, name, most_faces)
    # glTF's colours are linear light (glTF 2.0, 3.9.2); trimesh, and so Onnuri, writes sRGB's
    # values as they are
    return "trimesh" not in writer


def _check_materials(data: bytes, name: str, beside: Path | None) -> None:
    """An OBJ whose colours lie in a file that did not come with it would be read as grey."""
    used = {line.split(None, 1)[1].strip() for line in _lines(data, b"usemtl ")}
    files = [
        line.split(None, 1)[1].strip().decode(errors="replace") for line in _lines(data, b"mtllib ")
    ]
    if not used or not files or _vertices_have_colors(data):
        return
    if beside is None or not any(_is_within(Path(file), beside) for file in files):
        raise MediaError(
            name,
            f"has its colours in another file ({files[0]:.60}), which did not come with it",
            "give a GLB, which has them in it, or an OBJ without mtllib",
            code="other_file",
        )


def _is_within(file: Path, folder: Path) -> bool:
    """Whether a file that another one names lies in that one's folder, or below it: no other is
    read."""
    return not file.is_absolute() and ".." not in file.parts and (folder / file).is_file()


def _lines(data: bytes, begin: bytes) -> list[bytes]:
    """The lines of a text that begin so and go on."""
    found, at = [], data.find(begin) if data.startswith(begin) else data.find(b"\n" + begin)
    while at >= 0:
        line = data[at : at + 300].lstrip(b"\n").split(b"\n", 1)[0]
        if len(line.split(None, 1)) > 1:
            found.append(line)
        at = data.find(b"\n" + begin, at + 1)
    return found


def _vertices_have_colors(data: bytes) -> bool:
    first = next(iter(_lines(data, b"v ")), b"")
    return len(first.split()) >= 7


def _stl_faces(data: bytes) -> int:
    binary = len(data) >= 84 and not data[:512].lstrip().startswith(b"solid")
    return int.from_bytes(data[80:84], "little") if binary else data.count(b"endfacet")


def _ply_faces(data: bytes) -> int:
    header = data[:20_000].split(b"end_header")[0]
    counts = [
        line.split()
        for line in header.splitlines()
        if line.startswith((b"element face", b"element vertex"))
    ]
    return max(
        (
            int(words[2]) // (1 if words[1] == b"face" else 3)
            for words in counts
            if len(words) == 3 and words[2].isdigit()
        ),
        default=0,
    )


def _joined(parts: list[tuple[trimesh.Trimesh, np.ndarray]], linear: bool) -> trimesh.Trimesh:
    """One mesh of a scene's parts, each where it stands, its colours at its vertices."""
    vertices, faces, colors, count = [], [], [], 0
    for part, matrix in parts:
        corners = np.asarray(part.vertices, dtype=np.float64)
        triangles, color = np.asarray(part.faces), _colors(part, linear)
        if (
            getattr(part.visual, "kind", None) == "face"
        ):  # colours of faces: no two share a vertex then
            corners, color = corners[triangles.ravel()], np.repeat(color, 3, axis=0)
            triangles = np.arange(len(corners)).reshape(-1, 3)
        vertices.append(corners @ matrix[:3, :3].T + matrix[:3, 3])
        faces.append(triangles + count)
        colors.append(color)
        count += len(corners)
    if not parts:
        return trimesh.Trimesh()
    return trimesh.Trimesh(
        np.concatenate(vertices),
        np.concatenate(faces),
        process=False,
        vertex_colors=np.concatenate(colors),
    )


def _colors(part: trimesh.Trimesh, linear: bool) -> np.ndarray:
    """uint8 [V, 3], or [F, 3] where faces have them: of vertices, faces, a texture, or a plain
    material."""
    visual: Any = part.visual
    rows = len(part.vertices)
    if visual.kind in ("vertex", "face"):
        own = np.asarray(visual.vertex_colors if visual.kind == "vertex" else visual.face_colors)[
            :, :3
        ]
        return _srgb(own) if linear else own.astype(np.uint8)
    material = getattr(visual, "material", None)
    if material is None:
        return np.full((rows, 3), GREY, np.uint8)
    plain, picture = (
        _plain_color(material),
        getattr(material, "baseColorTexture", None) or getattr(material, "image", None),
    )
    uv = getattr(visual, "uv", None)
    if picture is not None and uv is not None and len(uv) == rows:
        painted = np.asarray(trimesh.visual.color.uv_to_color(uv, picture.convert("RGBA")))[
            :, :3
        ].astype(float)
        return (
            np.asarray(painted if plain is None else painted * plain / 255).round().astype(np.uint8)
        )
    color = np.full(3, GREY) if plain is None else _srgb(plain) if linear else plain
    return np.broadcast_to(color.astype(np.uint8), (rows, 3)).copy()


def _plain_color(material: Any) -> np.ndarray | None:
    """[3] from 0 to 255, of the whole material; None where it names none."""
    named = getattr(material, "baseColorFactor", None)
    if named is None:
        named = getattr(material, "diffuse", None)
    return None if named is None else np.asarray(trimesh.visual.color.to_rgba(named))[:3]


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light as sRGB's values, both from 0 to 255 (IEC 61966-2-1)."""
    light = np.asarray(linear, dtype=np.float64) / 255
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (curve * 255).round().astype(np.uint8)


def mesh_of(voxels: np.ndarray) -> trimesh.Trimesh:
    """Watertight surface of voxels uint8 [64, 64, 64, 4] with vertex colours, in world units
    (Lorensen & Cline 1987)."""
    alpha = np.pad(voxels[..., 3].astype(np.float32) / 255, 1)
    if alpha.max() <= 0.5:
        return trimesh.Trimesh()
    vertices, faces, _, _ = marching_cubes(alpha, 0.5)
    vertices -= 1
    cells = vertices.round().astype(int).clip(0, VOXELS - 1)
    # the fuller of the two cells that a vertex lies between has the colour
    other = np.where(vertices > cells, cells + 1, cells - 1).clip(0, VOXELS - 1)
    here, there = (
        voxels[tuple(cells.T)],
        voxels[tuple(np.where(np.abs(vertices - cells) > 1e-6, other, cells).T)],
    )
    color = np.where(here[:, 3:] >= there[:, 3:], here[:, :3], there[:, :3])
    made = trimesh.Trimesh(
        (vertices + 0.5) * 2 / VOXELS - 1, faces[:, ::-1], vertex_colors=color, process=False
    )
    if made.volume < 0:
        made.invert()
    return made


def voxels_of(mesh: trimesh.Trimesh, name: str = "the mesh") -> np.ndarray:
    """Voxels uint8 [64, 64, 64, 4] of a mesh, filled inside. A mesh beyond the world's cube is
    scaled to fit, and so is one so small that it must be of another unit. Raises MediaError where
    filling would take too long.

    Three samples a voxel along each of x and y, exact along z (crossings of vertical lines,
    even-odd rule).
    """
    mesh = mesh.copy()
    extent = float(np.max(mesh.extents))
    if np.abs(mesh.bounds).max() > 1.0 or extent < TINY:
        mesh.apply_translation(-mesh.bounds.mean(0))
        mesh.apply_scale(1.6 / extent)
    alpha = fill(mesh.triangles.astype(np.float64), name=name)
    grid = np.zeros((VOXELS,) * 3 + (4,), dtype=np.uint8)
    grid[..., 3] = (alpha * 255).round()
    grid[..., :3][alpha > 0] = _nearest_colors(mesh, np.argwhere(alpha > 0))
    return grid


def _nearest_colors(mesh: trimesh.Trimesh, cells: np.ndarray) -> np.ndarray:
    """uint8 [N, 3]: of every cell [N, 3] the colour of the vertex that is nearest to its middle."""
    colors = np.asarray(mesh.visual.vertex_colors)[:, :3].astype(np.uint8)  # type: ignore[union-attr]
    if (
        not len(cells) or (colors == colors[0]).all()
    ):  # most meshes have one colour, and need no search
        return np.broadcast_to(colors[0], (len(cells), 3))
    from scipy.ndimage import distance_transform_edt

    # a search tree would be slow where it matters: a sphere's middle is as near to one vertex as to
    # all others
    place = (np.asarray(mesh.vertices) + 1) * VOXELS / 2
    home = place.astype(int).clip(0, VOXELS - 1)
    order = np.argsort(
        -np.abs(place - home - 0.5).sum(1)
    )  # of vertices in one cell the one nearest to its middle stays
    painted = np.zeros((VOXELS,) * 3 + (3,), np.uint8)
    painted[tuple(home[order].T)] = colors[order]
    empty = np.ones((VOXELS,) * 3, bool)
    empty[tuple(home.T)] = False
    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return np.asarray(painted[tuple(nearest[:, *cells.T])])


def fill(triangles: np.ndarray, samples: int = 3, name: str = "the mesh") -> np.ndarray:
    """Occupancy float32 [64, 64, 64] of closed triangles [N, 3, 3] in the cube [-1, 1]³. Raises
    MediaError where it would take more than `MOST_TESTS`."""
    lines = VOXELS * samples
    scaled = (triangles + 1) * np.array([lines / 2, lines / 2, VOXELS / 2])
    low = np.ceil(scaled.min(1)[:, :2] - 0.5 - 1e-4).clip(0, lines).astype(np.int64)
    high = np.floor(scaled.max(1)[:, :2] - 0.5 - 1e-4).clip(-1, lines - 1).astype(np.int64)
    one, two = scaled[:, 1] - scaled[:, 0], scaled[:, 2] - scaled[:, 0]
    area = one[:, 0] * two[:, 1] - two[:, 0] * one[:, 1]
    kept = (high >= low).all(1) & (np.abs(area) >= 1e-12)
    scaled, low, area, one, two = scaled[kept], low[kept], area[kept], one[kept], two[kept]
    width = high[kept] - low + 1
    tests = width.prod(1)
    if tests.sum() > MOST_TESTS:
        raise MediaError(
            name,
            f"has faces that cover each other {tests.sum() // lines**2} times",
            "simplify it, or give its outer surface alone",
            code="too_many_faces",
            most=MOST_TESTS // lines**2,
        )
    ends = tests.cumsum()
    found_lines, found_heights = [], []
    begin = 0
    while begin < len(tests):
        end = max(
            int(np.searchsorted(ends, ends[begin] - tests[begin] + CHUNK_TESTS, "right")), begin + 1
        )
        which = np.repeat(np.arange(begin, end), tests[begin:end])
        firsts = ends[begin:end] - tests[begin:end] - (ends[begin] - tests[begin])
        place = np.arange(len(which)) - np.repeat(firsts, tests[begin:end])
        i, j = low[which, 0] + place // width[which, 1], low[which, 1] + place % width[which, 1]
        # a line's own small offset keeps it off edges that two triangles share
        x, y = i + 0.5 + 1.37e-4 - scaled[which, 0, 0], j + 0.5 + 0.73e-4 - scaled[which, 0, 1]
        u = (x * two[which, 1] - two[which, 0] * y) / area[which]
        v = (one[which, 0] * y - x * one[which, 1]) / area[which]
        hit = (u >= 0) & (v >= 0) & (u + v <= 1)
        which = which[hit]
        found_lines.append(i[hit] * lines + j[hit])
        found_heights.append(scaled[which, 0, 2] + u[hit] * one[which, 2] + v[hit] * two[which, 2])
        begin = end
    if not found_lines:
        return np.zeros((VOXELS,) * 3, np.float32)
    filled = _between(np.concatenate(found_lines), np.concatenate(found_heights), lines**2)
    return (
        filled.reshape(VOXELS, samples, VOXELS, samples, VOXELS)
        .mean((1, 3))
        .clip(0, 1)
        .astype(np.float32)
    )


def _between(line: np.ndarray, height: np.ndarray, count: int) -> np.ndarray:
    """Float64 [count, 64]: how much of every cell of a line lies between its first crossing and its
    second, its third and its fourth, and so on. A last crossing without a partner bounds
    nothing."""
    order = np.lexsort((height, line))
    line, height = line[order], height[order].clip(0, VOXELS)
    first = np.r_[True, line[1:] != line[:-1]]
    begins = np.flatnonzero(first)
    sizes = np.diff(np.r_[begins, len(line)])
    rank = np.arange(len(line)) - np.repeat(begins, sizes)
    paired = rank < np.repeat(sizes // 2 * 2, sizes)
    line, height, sign = line[paired], height[paired], np.where(rank[paired] % 2, 1.0, -1.0)
    # what lies below a height is whole cells and a part of the one that it is in; a stretch is its
    # end's less its start's
    cell = np.minimum(height.astype(np.int64), VOXELS - 1)
    part = np.bincount(line * VOXELS + cell, sign * (height - cell), count * VOXELS).reshape(
        count, VOXELS
    )
    above = np.bincount(line * VOXELS + cell, sign, count * VOXELS).reshape(count, VOXELS)
    whole = above[:, ::-1].cumsum(1)[:, ::-1] - above
    return np.asarray(part + whole)
