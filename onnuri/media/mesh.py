"""This module reads mesh files with their colours, fills meshes to voxels, and writes the surface
of voxels.

Files that are too large or refer to missing files are refused before they are parsed. The module
knows no codec and no model.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from skimage.measure import marching_cubes

from onnuri.errors import MediaError
from onnuri.media.formats import Format, damaged
from onnuri.media.kept import Kept
from onnuri.modality import VOXELS

Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=float)
"""glTF has y up and z towards the viewer; the world has z up and y away from the viewer"""
GREY = 160
"""level, 0 to 255, of a surface without a colour"""
TINY = 0.05
"""largest extent of a mesh that must be in another unit than the world's, and is scaled up"""
MOST_TESTS = 40_000_000
"""most tests of a line against a face when a mesh is filled: some 4 s"""
CHUNK_TESTS = 1_000_000
"""tests at once: some 100 MB"""
COMPRESSED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt"}
"""glTF extensions that compress vertices, by which a file cannot be read"""


def read(
    data: bytes, form: Format, name: str, most_faces: int, beside: Path | None = None
) -> np.ndarray:
    """Return a mesh file's voxels uint8 [64, 64, 64, 4]; up is y in the file, z in the array.

    The file's materials may be in the folder `beside`. Raises MediaError for a file that is
    damaged, too large or encloses nothing.
    """
    parts, linear = _parse(data, form, name, most_faces, beside)
    return _fill_parts(parts, linear, form, name, most_faces)


def keep(data: bytes, form: Format, name: str, most_faces: int, beside: Path | None = None) -> Kept:
    """Return what is kept of a mesh: its parts, where they are, with their colours and textures, as
    a GLB without names, cameras and notes.

    The file's materials may be in the folder `beside`. Raises MediaError as `read` does.
    """
    parts, linear = _parse(data, form, name, most_faces, beside)
    _fill_parts(parts, linear, form, name, most_faces)
    try:
        scene = trimesh.Scene()
        for number, (part, matrix) in enumerate(parts):
            scene.add_geometry(
                _bare(part, linear),
                node_name=f"node{number}",
                geom_name=f"part{number}",
                transform=matrix,
            )
        copy: Any = scene.export(file_type="glb", include_normals=False)
    except Exception:  # trimesh's exporter raises all kinds of errors too
        raise damaged(form, name) from None
    faces = sum(len(part.faces) for part, _ in parts)
    return Kept(
        modality="shape",
        data=bytes(copy),
        media_type="model/gltf-binary",
        format=form.name,
        facts={"faces": faces},
    )


def _parse(
    data: bytes, form: Format, name: str, most_faces: int, beside: Path | None
) -> tuple[list[tuple[trimesh.Trimesh, np.ndarray]], bool]:
    """Return a file's meshes, each with the matrix [4, 4] that moves it, and whether plain colours
    are linear light. Raises MediaError for a file that is damaged or too large."""
    linear = _check_whole(data, form, name, most_faces, beside)
    try:
        resolver = trimesh.resolvers.FilePathResolver(str(beside)) if beside else None
        scene: Any = trimesh.load_scene(
            io.BytesIO(data), file_type=form.decoder, process=False, resolver=resolver
        )
        parts = []
        for node in scene.graph.nodes_geometry:
            matrix, geometry = scene.graph.get(node)
            part = scene.geometry[geometry]
            if isinstance(part, trimesh.Trimesh) and len(part.faces):
                parts.append((part, matrix))
    except Exception:  # trimesh's parsers raise all kinds of errors
        raise damaged(form, name) from None
    _check_faces(sum(len(part.faces) for part, _ in parts), name, most_faces)
    return parts, linear


def _fill_parts(
    parts: list[tuple[trimesh.Trimesh, np.ndarray]],
    linear: bool,
    form: Format,
    name: str,
    most_faces: int,
) -> np.ndarray:
    """Return the voxels uint8 [64, 64, 64, 4] of meshes together. Raises MediaError for meshes that
    enclose nothing."""
    try:
        mesh = _join(parts, linear)
    except Exception:  # colours and textures are whatever a file says
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


def _bare(part: trimesh.Trimesh, linear: bool) -> trimesh.Trimesh:
    """Return a mesh with its surface and colours alone, which reads as the mesh does.

    A texture stays with its material's colour; all other colours become vertex colours in sRGB, as
    files that Onnuri writes have them.
    """
    visual: Any = part.visual
    corners, triangles = np.asarray(part.vertices), np.asarray(part.faces)
    material = getattr(visual, "material", None)
    texture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    uv = getattr(visual, "uv", None)
    if texture is not None and uv is not None and len(uv) == len(corners):
        color = _material_color(material)
        bare = trimesh.visual.material.PBRMaterial(
            # a new picture: the file's own may carry notes, and be a JPEG
            baseColorTexture=Image.fromarray(np.asarray(texture.convert("RGBA"))),
            baseColorFactor=None if color is None else [*color, 255],
        )
        visuals = trimesh.visual.TextureVisuals(uv=uv, material=bare)
        return trimesh.Trimesh(corners, triangles, visual=visuals, process=False)
    colors = _colors(part, linear)
    if getattr(visual, "kind", None) == "face":
        corners, colors = corners[triangles.ravel()], np.repeat(colors, 3, axis=0)
        triangles = np.arange(len(corners)).reshape(-1, 3)
    return trimesh.Trimesh(corners, triangles, vertex_colors=colors, process=False)


def check(mesh: Any, name: str, most_faces: int) -> None:
    """Raise MediaError for a mesh without a surface, with too many faces or with values that are
    not finite."""
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
    """Raise MediaError for more faces than `most`."""
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
    """Check a file's faces and references before it is parsed, and return whether plain colours in
    it are linear light.

    Raises MediaError for too many faces and for parts in a file that did not come with it.
    """
    if form.name in ("GLB", "glTF"):
        return _check_gltf(data, form, name, most_faces)
    if form.name == "STL":
        _check_faces(_stl_faces(data), name, most_faces)
    elif form.name == "PLY":
        _check_faces(_ply_faces(data), name, most_faces)
    elif form.name == "OBJ":
        _check_faces(data.count(b"\nf "), name, most_faces)
        _check_materials(data, name, beside)
    return False


def _check_gltf(data: bytes, form: Format, name: str, most_faces: int) -> bool:
    """Check a GLB or glTF before it is parsed, and return whether its plain colours are linear.

    Raises MediaError for one that is compressed, too large or refers to another file.
    """
    try:
        # a GLB's JSON follows a header of 12 bytes and a chunk header of 8 (glTF 2.0, 4.4)
        if form.name == "GLB":
            data = data[20 : 20 + struct.unpack("<I", data[12:16])[0]]
        gltf = json.loads(data)
        extensions = {*gltf.get("extensionsUsed", ()), *gltf.get("extensionsRequired", ())}
        other_files = [
            str(part["uri"])
            for part in (*gltf.get("buffers", ()), *gltf.get("images", ()))
            if not str(part.get("uri", "data:")).startswith("data:")
        ]
        accessors = gltf.get("accessors", [])
        faces = 0
        for mesh in gltf.get("meshes", ()):
            for part in mesh["primitives"]:
                accessor = part.get("indices", part["attributes"]["POSITION"])
                faces += int(accessors[accessor]["count"]) // 3
        writer = str(gltf["asset"].get("generator", ""))
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
        if extension in extensions:
            raise MediaError(
                name,
                f"is compressed with {method}, which is not read",
                "save it without compression",
                code="compressed_mesh",
                method=method,
            )
    if other_files:
        raise MediaError(
            name,
            f"has parts in another file ({other_files[0]:.60}), which did not come with it",
            "give a GLB, which has all in it",
            code="other_file",
        )
    _check_faces(faces, name, most_faces)
    # glTF's colours are linear light (glTF 2.0, 3.9.2), but trimesh, and so Onnuri, writes sRGB
    # values
    return "trimesh" not in writer


def _check_materials(data: bytes, name: str, beside: Path | None) -> None:
    """Raise MediaError for an OBJ whose colours are in a file that did not come with it; trimesh
    would read it as grey."""
    materials = {line.split(None, 1)[1].strip() for line in _lines(data, b"usemtl ")}
    files = [
        line.split(None, 1)[1].strip().decode(errors="replace") for line in _lines(data, b"mtllib ")
    ]
    if not materials or not files or _vertices_have_colors(data):
        return
    if beside is None or not any(_is_within(Path(file), beside) for file in files):
        raise MediaError(
            name,
            f"has its colours in another file ({files[0]:.60}), which did not come with it",
            "give a GLB, which has them in it, or an OBJ without mtllib",
            code="other_file",
        )


def _is_within(file: Path, folder: Path) -> bool:
    """Return whether a file that a mesh names is in the mesh's folder or below it: no other may be
    read."""
    return not file.is_absolute() and ".." not in file.parts and (folder / file).is_file()


def _lines(data: bytes, begin: bytes) -> list[bytes]:
    """Return the lines of a file that begin with some bytes and have another word after them."""
    lines = []
    start = 0 if data.startswith(begin) else data.find(b"\n" + begin)
    while start >= 0:
        line = data[start : start + 300].lstrip(b"\n").split(b"\n", 1)[0]
        if len(line.split(None, 1)) > 1:
            lines.append(line)
        start = data.find(b"\n" + begin, start + 1)
    return lines


def _vertices_have_colors(data: bytes) -> bool:
    """Return whether an OBJ's vertices have colours: x y z r g b."""
    first = next(iter(_lines(data, b"v ")), b"")
    return len(first.split()) >= 7


def _stl_faces(data: bytes) -> int:
    """Return the number of faces of an STL, from its header if it is binary."""
    binary = len(data) >= 84 and not data[:512].lstrip().startswith(b"solid")
    return int.from_bytes(data[80:84], "little") if binary else data.count(b"endfacet")


def _ply_faces(data: bytes) -> int:
    """Return the number of faces that a PLY's header states, or a third of its vertices if that is
    more."""
    header = data[:20_000].split(b"end_header")[0]
    faces = 0
    for line in header.splitlines():
        words = line.split()
        if line.startswith((b"element face", b"element vertex")) and len(words) == 3:
            count = int(words[2]) if words[2].isdigit() else 0
            faces = max(faces, count if words[1] == b"face" else count // 3)
    return faces


def _join(parts: list[tuple[trimesh.Trimesh, np.ndarray]], linear: bool) -> trimesh.Trimesh:
    """Return one mesh of a scene's parts, each moved by its matrix, with colours at its
    vertices."""
    vertices, faces, colors, count = [], [], [], 0
    for part, matrix in parts:
        corners = np.asarray(part.vertices, dtype=np.float64)
        triangles, color = np.asarray(part.faces), _colors(part, linear)
        if getattr(part.visual, "kind", None) == "face":
            # faces of different colours cannot share a vertex: give each its own three
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
    """Return a mesh's colours uint8 [V, 3] by vertex, or [F, 3] by face if its faces have them.

    They come from vertices, faces, a texture or one material. `linear` says whether colours other
    than a texture's are linear light.
    """
    visual: Any = part.visual
    rows = len(part.vertices)
    if visual.kind in ("vertex", "face"):
        rgba = visual.vertex_colors if visual.kind == "vertex" else visual.face_colors
        rgb = np.asarray(rgba)[:, :3]
        return _srgb(rgb) if linear else rgb.astype(np.uint8)
    material = getattr(visual, "material", None)
    if material is None:
        return np.full((rows, 3), GREY, np.uint8)
    color = _material_color(material)
    texture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    uv = getattr(visual, "uv", None)
    if texture is not None and uv is not None and len(uv) == rows:
        rgba = trimesh.visual.color.uv_to_color(uv, texture.convert("RGBA"))
        textured = np.asarray(rgba)[:, :3].astype(float)
        if color is not None:  # a texture is multiplied by the material's colour
            textured = textured * color / 255
        return np.asarray(textured.round().astype(np.uint8))
    if color is None:
        color = np.full(3, GREY)
    elif linear:
        color = _srgb(color)
    return np.broadcast_to(color.astype(np.uint8), (rows, 3)).copy()


def _material_color(material: Any) -> np.ndarray | None:
    """Return a material's one colour [3], 0 to 255; None if it has none."""
    color = getattr(material, "baseColorFactor", None)
    if color is None:
        color = getattr(material, "diffuse", None)
    return None if color is None else np.asarray(trimesh.visual.color.to_rgba(color))[:3]


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Return linear light, 0 to 255, as sRGB values uint8 (IEC 61966-2-1)."""
    light = np.asarray(linear, dtype=np.float64) / 255
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (curve * 255).round().astype(np.uint8)


def mesh_of(voxels: np.ndarray) -> trimesh.Trimesh:
    """Return the watertight surface of voxels uint8 [64, 64, 64, 4] by marching cubes, with vertex
    colours, in world units (Lorensen & Cline 1987)."""
    alpha = np.pad(voxels[..., 3].astype(np.float32) / 255, 1)
    if alpha.max() <= 0.5:
        return trimesh.Trimesh()
    vertices, faces, _, _ = marching_cubes(alpha, 0.5)
    vertices -= 1
    cells = vertices.round().astype(int).clip(0, VOXELS - 1)
    # a vertex lies between two cells and takes the colour of the one with more occupancy
    neighbours = np.where(vertices > cells, cells + 1, cells - 1).clip(0, VOXELS - 1)
    neighbours = np.where(np.abs(vertices - cells) > 1e-6, neighbours, cells)
    one, two = voxels[tuple(cells.T)], voxels[tuple(neighbours.T)]
    color = np.where(one[:, 3:] >= two[:, 3:], one[:, :3], two[:, :3])
    mesh = trimesh.Trimesh(
        (vertices + 0.5) * 2 / VOXELS - 1, faces[:, ::-1], vertex_colors=color, process=False
    )
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def mesh_bytes(voxels: np.ndarray, suffix: str) -> bytes:
    """Return the surface of voxels uint8 [64, 64, 64, 4] as a file's bytes, y up, in the format of
    an ending. Raises MediaError for voxels without a surface."""
    mesh = mesh_of(voxels)
    if len(mesh.faces) == 0:
        raise MediaError(
            "an empty shape", "has no surface to write", "ask for something else or another --seed"
        )
    mesh.apply_transform(np.linalg.inv(Z_UP))
    data: Any = mesh.export(file_type=suffix[1:])
    return data.encode() if isinstance(data, str) else bytes(data)


def voxels_of(mesh: trimesh.Trimesh, name: str = "the mesh") -> np.ndarray:
    """Return a mesh's voxels uint8 [64, 64, 64, 4], filled inside.

    A mesh that exceeds the world's cube is scaled to fit, and so is one so small that it must be in
    another unit. There are three samples per voxel along x and y each, and z is exact (crossings of
    vertical lines, even-odd rule). Raises MediaError if filling would take too long.
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
    """Return, for each of N cells [N, 3], the colour of the vertex nearest to its middle, uint8 [N,
    3]."""
    visual: Any = mesh.visual
    colors = np.asarray(visual.vertex_colors)[:, :3].astype(np.uint8)
    if not len(cells) or (colors == colors[0]).all():  # most meshes have one colour: no search
        return np.broadcast_to(colors[0], (len(cells), 3))
    from scipy.ndimage import distance_transform_edt

    # not a search tree: it is slow inside a sphere, whose middle is equally near to all vertices
    positions = (np.asarray(mesh.vertices) + 1) * VOXELS / 2
    vertex_cells = positions.astype(int).clip(0, VOXELS - 1)
    # farthest first, so that of vertices in one cell the one nearest to its middle is written last
    order = np.argsort(-np.abs(positions - vertex_cells - 0.5).sum(1))
    grid = np.zeros((VOXELS,) * 3 + (3,), np.uint8)
    grid[tuple(vertex_cells[order].T)] = colors[order]
    empty = np.ones((VOXELS,) * 3, bool)
    empty[tuple(vertex_cells.T)] = False
    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return np.asarray(grid[tuple(nearest[:, *cells.T])])


def fill(triangles: np.ndarray, samples: int = 3, name: str = "the mesh") -> np.ndarray:
    """Return the occupancy float32 [64, 64, 64] of closed triangles [N, 3, 3] in the cube [-1, 1]³.

    Vertical lines, `samples` per voxel along x and along y, are intersected with all triangles.
    Raises MediaError if that takes more than `MOST_TESTS` tests.
    """
    lines = VOXELS * samples
    scaled = (triangles + 1) * np.array([lines / 2, lines / 2, VOXELS / 2])
    low = np.ceil(scaled.min(1)[:, :2] - 0.5 - 1e-4).clip(0, lines).astype(np.int64)
    high = np.floor(scaled.max(1)[:, :2] - 0.5 - 1e-4).clip(-1, lines - 1).astype(np.int64)
    one, two = scaled[:, 1] - scaled[:, 0], scaled[:, 2] - scaled[:, 0]
    area = one[:, 0] * two[:, 1] - two[:, 0] * one[:, 1]
    hits_lines = (high >= low).all(1) & (np.abs(area) >= 1e-12)
    scaled, low, high, area, one, two = (x[hits_lines] for x in (scaled, low, high, area, one, two))
    width = high - low + 1
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
    crossed_lines, heights = [], []
    begin = 0
    while begin < len(tests):
        chunk_start = ends[begin] - tests[begin]
        end = int(np.searchsorted(ends, chunk_start + CHUNK_TESTS, "right"))
        end = max(end, begin + 1)
        which = np.repeat(np.arange(begin, end), tests[begin:end])
        firsts = ends[begin:end] - tests[begin:end] - chunk_start
        # number of a test within its triangle's bounding box, which is walked row by row
        number = np.arange(len(which)) - np.repeat(firsts, tests[begin:end])
        i, j = low[which, 0] + number // width[which, 1], low[which, 1] + number % width[which, 1]
        # a line's own small offset keeps it off edges that two triangles share
        x, y = i + 0.5 + 1.37e-4 - scaled[which, 0, 0], j + 0.5 + 0.73e-4 - scaled[which, 0, 1]
        u = (x * two[which, 1] - two[which, 0] * y) / area[which]
        v = (one[which, 0] * y - x * one[which, 1]) / area[which]
        hit = (u >= 0) & (v >= 0) & (u + v <= 1)
        which = which[hit]
        crossed_lines.append(i[hit] * lines + j[hit])
        heights.append(scaled[which, 0, 2] + u[hit] * one[which, 2] + v[hit] * two[which, 2])
        begin = end
    if not crossed_lines:
        return np.zeros((VOXELS,) * 3, np.float32)
    filled = _between(np.concatenate(crossed_lines), np.concatenate(heights), lines**2)
    filled = filled.reshape(VOXELS, samples, VOXELS, samples, VOXELS).mean((1, 3))
    return filled.clip(0, 1).astype(np.float32)


def _between(line: np.ndarray, height: np.ndarray, count: int) -> np.ndarray:
    """Return the share of each of a line's 64 cells that is inside, float64 [count, 64], from N
    crossings: the number of their line [N] and their height [N].

    Inside is between the first crossing of a line and its second, its third and its fourth, and so
    on. A last crossing without a partner bounds nothing.
    """
    order = np.lexsort((height, line))
    line, height = line[order], height[order].clip(0, VOXELS)
    first = np.r_[True, line[1:] != line[:-1]]
    begins = np.flatnonzero(first)
    sizes = np.diff(np.r_[begins, len(line)])
    rank = np.arange(len(line)) - np.repeat(begins, sizes)
    paired = rank < np.repeat(sizes // 2 * 2, sizes)
    line, height, sign = line[paired], height[paired], np.where(rank[paired] % 2, 1.0, -1.0)
    # below a height lie whole cells and a part of one; an interval is that of its end less that of
    # its start
    cell = np.minimum(height.astype(np.int64), VOXELS - 1)
    part = np.bincount(line * VOXELS + cell, sign * (height - cell), count * VOXELS).reshape(
        count, VOXELS
    )
    above = np.bincount(line * VOXELS + cell, sign, count * VOXELS).reshape(count, VOXELS)
    whole = above[:, ::-1].cumsum(1)[:, ::-1] - above
    return np.asarray(part + whole)
