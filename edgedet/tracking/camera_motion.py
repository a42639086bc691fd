"""How the camera moved, told from the picture: corners followed from one frame to the next by sparse optical flow."""

from __future__ import annotations

import cv2
import numpy as np

STILL = np.eye(2, 3)
_LONG_SIDE = 320  # pixels of the grey picture that is looked at
_CORNERS, _FEWEST = 200, 12
_LEAST_AGREEMENT = 0.3  # of the corners followed; below, what moves is not the camera


class CameraMotion:
    """The motion of one stream's camera: shift, turn and zoom (Aharon et al. 2022, section 3.2)."""

    def __init__(self) -> None:
        self._grey: np.ndarray | None = None
        self._corners: np.ndarray | None = None

    def since_last(self, image: np.ndarray) -> np.ndarray:
        """(2, 3) float64 affine map from pixels of the picture before to pixels of this one; STILL where it cannot be told.

        image: (H, W, 3) uint8 BGR. A picture of another size starts anew.
        """
        scale = min(_LONG_SIDE / max(image.shape[:2]), 1.0)
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        before, corners = self._grey, self._corners
        self._grey = grey
        self._corners = cv2.goodFeaturesToTrack(grey, _CORNERS, qualityLevel=0.01, minDistance=5)
        if before is None or before.shape != grey.shape or corners is None or len(corners) < _FEWEST:
            return STILL
        affine = _fit(before, grey, corners)
        affine[:, 2] /= scale
        return affine


def _fit(before: np.ndarray, now: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The (2, 3) map that most of the corners (C, 1, 2) of the picture before follow."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, now, corners, corners.copy())
    followed = status.ravel() == 1
    if np.count_nonzero(followed) < _FEWEST:
        return STILL.copy()
    affine, agreeing = cv2.estimateAffinePartial2D(corners[followed], found[followed], ransacReprojThreshold=1.0)
    if affine is None or np.mean(agreeing) < _LEAST_AGREEMENT:
        return STILL.copy()
    return affine
