"""Places on the globe: distances and boxes, over the poles and the 180th meridian too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

EARTH_KM = 6371.0088
"""The mean radius of the earth. On this ball a distance is within 0.6 % of the true one."""

_SLACK = 1e-9  # degrees: a tenth of a millimetre


def distance_km(lat: Float64, lon: Float64, to_lat: float, to_lon: float) -> Float64:
    """(n,) kilometres along the great circle from (n,) places in degrees to one: the haversine
    formula, which keeps its precision for places close by."""
    phi, to_phi = np.radians(lat), np.radians(to_lat)
    half = np.sin((phi - to_phi) / 2) ** 2
    half += np.cos(phi) * np.cos(to_phi) * np.sin(np.radians(lon - to_lon) / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1))), np.float64)


def within_distance(lat: Float64, lon: Float64, to_lat: float, to_lon: float, km: float) -> Mask:
    """(n,) bool: the places at most ``km`` from one. A box around it is looked at first."""
    angle = np.degrees(km / EARTH_KM)
    mask: Mask = np.abs(lat - to_lat) <= angle + _SLACK
    if abs(to_lat) + angle < 90:  # else a pole is inside, and with it every longitude
        sine = np.sin(np.radians(angle)) / np.cos(np.radians(to_lat))
        width = np.degrees(np.arcsin(min(1.0, float(sine))))
        mask &= np.abs((lon - to_lon + 180) % 360 - 180) <= width + _SLACK
    rows = np.flatnonzero(mask)
    mask[rows] = distance_km(lat[rows], lon[rows], to_lat, to_lon) <= km
    return mask


def within_box(
    lat: Float64, lon: Float64, south: float, west: float, north: float, east: float
) -> Mask:
    """(n,) bool: the places inside, edges included. West greater than east crosses 180°."""

    def between(longitude: Float64) -> Mask:
        if west <= east:
            return np.asarray((longitude >= west) & (longitude <= east))
        return np.asarray((longitude >= west) | (longitude <= east))

    mask = between(lon) | ((np.abs(lon) == 180) & between(-lon))  # 180° east is 180° west
    return np.asarray(mask & (lat >= south) & (lat <= north))
