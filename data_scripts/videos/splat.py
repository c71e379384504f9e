"""Clouds with normals as shaded pictures: every point a disc in its tangent plane, sorted by a depth buffer.

Each frame is drawn at twice its size and averaged down. Per pixel, discs within a tolerance of the nearest one are
blended with weight 1 - (d / radius)^2, so that a surface of points looks closed and smooth.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

SAMPLES = 2  # a side of a pixel
PERSPECTIVE = 0.22  # a point one radius nearer to the viewer is drawn this much larger
LIGHT = np.array([-0.42, 0.62, 0.66]) / math.sqrt(
    0.42**2 + 0.62**2 + 0.66**2
)  # over the viewer's left shoulder
AMBIENT, DIFFUSE, GLOSS = 0.42, 0.62, 0.18


@njit(parallel=True, cache=True)
def draw(
    frames: np.ndarray,
    clouds: np.ndarray,
    normals: np.ndarray,
    paint: np.ndarray,
    cloud: np.ndarray,
    pose: np.ndarray,
    elevation: np.ndarray,
    backdrop: np.ndarray,
    discs: np.ndarray,
) -> None:
    """Draw every clip into `frames` [n, T, H, W, 3] uint8.

    clouds, normals [m, N, 3]: x right, y up, z to the viewer, within the unit sphere. paint [n, N, 3]: colours in 0 .. 1.
    cloud [n]: which cloud a clip shows. pose [n, T, 4]: x, y of the centre in pixels from the middle (y up), radius of the
    unit sphere in pixels, yaw in radians. elevation [n]: of the viewer, radians. backdrop [n, H, W, 3] in 0 .. 1.
    discs [m]: radius of a cloud's discs, in radii of the unit sphere.
    """
    n, steps, height, width = frames.shape[:4]
    for job in prange(n * steps):
        clip, step = job // steps, job % steps
        fine_h, fine_w = height * SAMPLES, width * SAMPLES
        depth = np.full((fine_h, fine_w), -1e9, np.float32)
        colour = np.zeros((fine_h, fine_w, 4), np.float32)
        points, normal = clouds[cloud[clip]], normals[cloud[clip]]
        count = len(points)
        placed = np.empty((count, 7), np.float32)  # x, y, z, radius on the fine grid; slopes of z; shade
        gloss = np.empty(count, np.float32)
        x0, y0, size, yaw = pose[clip, step]
        sin_y, cos_y = math.sin(yaw), math.cos(yaw)
        sin_e, cos_e = math.sin(elevation[clip]), math.cos(elevation[clip])
        for i in range(count):
            px, py, pz = points[i]
            nx, ny, nz = normal[i]
            px, pz = cos_y * px + sin_y * pz, cos_y * pz - sin_y * px
            nx, nz = cos_y * nx + sin_y * nz, cos_y * nz - sin_y * nx
            py, pz = cos_e * py - sin_e * pz, sin_e * py + cos_e * pz
            ny, nz = cos_e * ny - sin_e * nz, sin_e * ny + cos_e * nz
            if nz < 0:  # sheets have two sides
                nx, ny, nz = -nx, -ny, -nz
            lambert = abs(nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2])
            half = (nx * LIGHT[0] + ny * LIGHT[1] + nz * (LIGHT[2] + 1.0)) / math.sqrt(2.0 + 2.0 * LIGHT[2])
            gloss[i] = GLOSS * max(half, 0.0) ** 24
            near = size * SAMPLES * (1.0 + PERSPECTIVE * pz)
            placed[i, 0] = (width / 2 + x0) * SAMPLES + near * px
            placed[i, 1] = (height / 2 - y0) * SAMPLES - near * py
            placed[i, 2] = pz * size * SAMPLES
            placed[i, 3] = discs[cloud[clip]] * near
            steep = max(nz, 0.25)  # a disc seen edge on still covers something
            placed[i, 4], placed[i, 5] = -nx / steep, ny / steep
            placed[i, 6] = AMBIENT + DIFFUSE * lambert
        for blend in range(2):
            for i in range(count):
                cx, cy, cz, radius, slope_x, slope_y, shade = placed[i]
                for row in range(max(int(cy - radius), 0), min(int(cy + radius) + 2, fine_h)):
                    for column in range(max(int(cx - radius), 0), min(int(cx + radius) + 2, fine_w)):
                        dx, dy = column + 0.5 - cx, row + 0.5 - cy
                        dz = slope_x * dx + slope_y * dy
                        share = 1.0 - (dx * dx + dy * dy + dz * dz) / (radius * radius)
                        if share <= 0:
                            continue
                        if blend == 0:
                            depth[row, column] = max(depth[row, column], cz + dz)
                        elif cz + dz > depth[row, column] - 0.6 * radius:
                            for c in range(3):
                                lit = paint[clip, i, c] * shade + gloss[i]
                                colour[row, column, c] += share * min(lit, 1.0)
                            colour[row, column, 3] += share
        for row in range(height):
            for column in range(width):
                for c in range(3):
                    total = 0.0
                    for sub in range(SAMPLES * SAMPLES):
                        r, q = row * SAMPLES + sub // SAMPLES, column * SAMPLES + sub % SAMPLES
                        weight = colour[r, q, 3]
                        total += colour[r, q, c] / weight if weight > 0 else backdrop[clip, row, column, c]
                    frames[clip, step, row, column, c] = round(255.0 * total / (SAMPLES * SAMPLES))
