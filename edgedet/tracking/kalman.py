"""A constant-velocity Kalman filter over many boxes at once, in real time (seconds, not frames).

A box is four coordinates: centre x, centre y, width, height. All noise is
diagonal, so no coordinate's uncertainty ever mixes with another's: a 2x2
covariance (position, velocity) a coordinate is exact, and nothing is inverted.
Noise grows with the object's size, sqrt(width * height): what is large in the
image is near, and moves by more pixels. Sizes wander but have no velocity,
else a box that is lost for a while would grow or shrink away.
"""

from __future__ import annotations

import numpy as np

from edgedet.boxes import cxcywh_to_xyxy

# In object sizes. The first three are per-frame values of DeepSORT (Wojke et al. 2017) turned into rates at 30 fps.
MEASURED_STD = 1 / 20  # how far a detected edge lies from the true one
WANDER_VARIANCE = 30 / 20**2  # of position, per second
PUSH_VARIANCE = np.array([1.0, 1.0, 0.0, 0.0])  # of velocity, per second
START_SPEED_STD = np.array([2.0, 2.0, 0.0, 0.0])  # sizes per second, for a new object


class BoxMotion:
    """T moving boxes: where each is, how fast it goes, and how sure that is.

    position: (T, 4) float64 centre x, centre y, width, height, pixels.
    velocity: (T, 4) pixels per second. The covariance of each coordinate's
    pair lies in three (T, 4) arrays: position_var, cross_var, velocity_var.
    """

    def __init__(self) -> None:
        self.position = self.velocity = self.position_var = self.cross_var = self.velocity_var = np.zeros((0, 4))

    def __len__(self) -> int:
        return len(self.position)

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) float32 xyxy, pixels."""
        return cxcywh_to_xyxy(self.position).astype(np.float32)

    def predict(self, elapsed_s: float) -> None:
        """Move every box on by the time that has passed, growing its uncertainty (white-noise acceleration)."""
        size_2 = self._size_2(self.position)
        self.position = self.position + elapsed_s * self.velocity
        push = PUSH_VARIANCE * size_2
        self.position_var = (
            self.position_var
            + 2 * elapsed_s * self.cross_var
            + elapsed_s**2 * self.velocity_var
            + elapsed_s * WANDER_VARIANCE * size_2
            + elapsed_s**3 / 3 * push
        )
        self.cross_var = self.cross_var + elapsed_s * self.velocity_var + elapsed_s**2 / 2 * push
        self.velocity_var = self.velocity_var + elapsed_s * push

    def correct(self, index: np.ndarray, boxes: np.ndarray) -> None:
        """Pull the boxes at `index` (M,) towards the detected ones: (M, 4) xyxy, pixels."""
        measured = _to_centre(boxes)
        innovation = measured - self.position[index]
        total_var = self.position_var[index] + MEASURED_STD**2 * self._size_2(measured)
        position_gain, velocity_gain = self.position_var[index] / total_var, self.cross_var[index] / total_var
        self.position[index] += position_gain * innovation
        self.velocity[index] += velocity_gain * innovation
        self.velocity_var[index] -= velocity_gain * self.cross_var[index]
        self.cross_var[index] *= 1 - position_gain
        self.position_var[index] *= 1 - position_gain

    def append(self, boxes: np.ndarray) -> None:
        """Add boxes (M, 4) xyxy at rest, of unknown speed."""
        position = _to_centre(boxes)
        size_2, zero = self._size_2(position), np.zeros_like(position)
        self.position = np.concatenate([self.position, position])
        self.velocity = np.concatenate([self.velocity, zero])
        self.position_var = np.concatenate([self.position_var, MEASURED_STD**2 * size_2 + zero])
        self.cross_var = np.concatenate([self.cross_var, zero])
        self.velocity_var = np.concatenate([self.velocity_var, START_SPEED_STD**2 * size_2])

    def keep(self, mask: np.ndarray) -> None:
        """Forget the boxes where the (T,) mask is False."""
        for name in ("position", "velocity", "position_var", "cross_var", "velocity_var"):
            setattr(self, name, getattr(self, name)[mask])

    @staticmethod
    def _size_2(position: np.ndarray) -> np.ndarray:
        """(T, 1) squared size in pixels; at least one pixel, so that an empty box does not count as certain."""
        return np.maximum(position[:, 2:3] * position[:, 3:4], 1.0)


def _to_centre(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) xyxy to centre x, centre y, width, height, as float64: variances need the room."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
