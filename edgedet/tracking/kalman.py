"""Constant-velocity Kalman filters over many boxes at once.

All noise is diagonal, so no coordinate's uncertainty ever mixes with
another's: a 2x2 covariance (position, velocity) a coordinate is exact, and
nothing is inverted.
"""

from __future__ import annotations

import numpy as np

# In object sizes. The first three are per-frame values of DeepSORT (Wojke et al. 2017) turned into rates at 30 fps.
MEASURED_STD = 1 / 20  # how far a detected edge lies from the true one
WANDER_VARIANCE = 30 / 20**2  # of position, per second
PUSH_VARIANCE = np.array([1.0, 1.0, 0.0, 0.0])  # of velocity, per second
START_SPEED_STD = np.array([2.0, 2.0, 0.0, 0.0])  # sizes per second, for a new object


class Motion:
    """T tracks of four coordinates: where each is, how fast it goes, and how sure that is.

    state: (5, 4, T) float64, a (4, T) plane each of position, velocity, and
    the covariance of each coordinate's pair: position's variance, the
    covariance of both, velocity's variance.
    """

    def __init__(self) -> None:
        self.state = np.zeros((5, 4, 0))

    def __len__(self) -> int:
        return self.state.shape[2]

    @property
    def position(self) -> np.ndarray:
        """(T, 4) coordinates; a view, like the next four."""
        return self.state[0].T

    @property
    def velocity(self) -> np.ndarray:
        """(T, 4) coordinates per unit of time."""
        return self.state[1].T

    @property
    def position_var(self) -> np.ndarray:
        """(T, 4) variance of the position."""
        return self.state[2].T

    @property
    def cross_var(self) -> np.ndarray:
        """(T, 4) covariance of position and velocity."""
        return self.state[3].T

    @property
    def velocity_var(self) -> np.ndarray:
        """(T, 4) variance of the velocity."""
        return self.state[4].T

    def move(self, elapsed: float, position_noise: np.ndarray, cross_noise: np.ndarray, velocity_noise: np.ndarray) -> None:
        """Move every track on by some time and add the noise, each (4, T) or (4, 1), to its covariance."""
        position, velocity, position_var, cross_var, velocity_var = self.state
        position += elapsed * velocity
        position_var += elapsed * (2 * cross_var + elapsed * velocity_var) + position_noise
        cross_var += elapsed * velocity_var + cross_noise
        velocity_var += velocity_noise

    def pull(self, index: np.ndarray, measured: np.ndarray, measured_var: np.ndarray) -> None:
        """Pull the tracks at `index` (M,) towards what was measured: (4, M), with its variance."""
        if not len(index):
            return
        state = self.state[:, :, index]
        position, velocity, position_var, cross_var, velocity_var = state
        innovation, total_var = measured - position, position_var + measured_var
        position_gain, velocity_gain = position_var / total_var, cross_var / total_var
        position += position_gain * innovation
        velocity += velocity_gain * innovation
        velocity_var -= velocity_gain * cross_var
        left = 1 - position_gain
        cross_var *= left
        position_var *= left
        self.state[:, :, index] = state

    def add(self, position: np.ndarray, position_var: np.ndarray, velocity_var: np.ndarray) -> None:
        """Add tracks at rest: (4, M) positions, with variances that broadcast to them."""
        state = np.zeros((5, *position.shape))
        state[0], state[2], state[4] = position, position_var, velocity_var
        self.state = np.concatenate([self.state, state], axis=2)

    def keep(self, mask: np.ndarray) -> None:
        """Forget the tracks where the (T,) mask is False."""
        self.state = self.state[:, :, mask]


class BoxMotion(Motion):
    """T moving boxes in real time: seconds, not frames.

    A box is centre x, centre y, width, height, pixels; velocity is per second.
    Noise grows with the object's size, sqrt(width * height): what is large in
    the image is near, and moves by more pixels. Sizes wander but have no
    velocity, else a box that is lost for a while would grow or shrink away.
    """

    push_variance, start_speed_std = PUSH_VARIANCE[:, None], START_SPEED_STD[:, None]

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) float32 xyxy, pixels."""
        return from_centre(self.state[0])

    def predict(self, elapsed_s: float) -> None:
        """Move every box on by the time that has passed, growing its uncertainty (white-noise acceleration)."""
        if not len(self):
            return
        size_2 = self.size_2(self.state[0])
        push = self.push_variance * size_2
        self.move(
            elapsed_s,
            elapsed_s * WANDER_VARIANCE * size_2 + elapsed_s**3 / 3 * push,
            elapsed_s**2 / 2 * push,
            elapsed_s * push,
        )

    def correct(self, index: np.ndarray, boxes: np.ndarray) -> None:
        """Pull the boxes at `index` (M,) towards the detected ones: (M, 4) xyxy, pixels."""
        measured = to_centre(boxes)
        self.pull(index, measured, MEASURED_STD**2 * self.size_2(measured))

    def append(self, boxes: np.ndarray) -> None:
        """Add boxes (M, 4) xyxy at rest, of unknown speed."""
        position = to_centre(boxes)
        size_2 = self.size_2(position)
        self.add(position, MEASURED_STD**2 * size_2, self.start_speed_std**2 * size_2)

    def warp(self, affine: np.ndarray) -> None:
        """Take every box along with the picture: `affine`, (2, 3), maps where things were to where they are now.

        Positions and velocities turn with it and sizes scale with it. What x
        and y learn of each other's uncertainty in a turn is left out.
        """
        turn, scale = affine[:, :2], np.sqrt(abs(np.linalg.det(affine[:, :2])))
        self.state[:2, :2] = turn @ self.state[:2, :2]
        self.state[0, :2] += affine[:, 2:]
        self.state[2:, :2] = turn**2 @ self.state[2:, :2]
        self.state[:2, 2:] *= scale
        self.state[2:, 2:] *= scale**2

    @staticmethod
    def size_2(position: np.ndarray) -> np.ndarray:
        """(T,) squared size in pixels; at least one pixel, so that an empty box does not count as certain."""
        return np.maximum(position[2] * position[3], 1.0)


class SideMotion(BoxMotion):
    """Boxes whose sizes have a velocity too, and whose noise along each axis grows with the side along it.

    BoT-SORT's state (Aharon et al. 2022, equations 1 to 6), in seconds.
    """

    push_variance, start_speed_std = np.ones((4, 1)), np.full((4, 1), 2.0)

    @staticmethod
    def size_2(position: np.ndarray) -> np.ndarray:
        """(4, T) squared width, height, width, height; at least one pixel."""
        return np.maximum(position[[2, 3, 2, 3]] ** 2, 1.0)


def to_centre(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) xyxy to (4, M) centre x, centre y, width, height, as float64: variances need the room."""
    left_top, right_bottom = boxes.T[:2].astype(np.float64), boxes.T[2:].astype(np.float64)
    return np.concatenate([(left_top + right_bottom) / 2, right_bottom - left_top])


def from_centre(position: np.ndarray) -> np.ndarray:
    """(4, T) centre x, centre y, width, height to (T, 4) float32 xyxy."""
    half = position[2:] / 2
    return np.concatenate([position[:2] - half, position[:2] + half]).astype(np.float32).T
