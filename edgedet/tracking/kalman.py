"""Constant-velocity Kalman filters over many boxes at once.

All noise is diagonal, so no coordinate's uncertainty ever mixes with
another's: a 2x2 covariance (position, velocity) a coordinate is exact, and
nothing is inverted.
"""

from __future__ import annotations

import numpy as np

# In object sizes; per-frame values of DeepSORT (Wojke et al. 2017), those of motion turned into rates at 30 fps.
MEASURED_STD = 1 / 20  # how far a detected edge lies from the true one
WANDER_VARIANCE = 30 / 20**2  # of position, per second
PUSH_VARIANCE = np.array([1.0, 1.0, 0.0, 0.0])  # of velocity, per second
START_SPEED_STD = np.array([2.0, 2.0, 0.0, 0.0])  # sizes per second, for a new object
_TO_CENTRE = np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [-1, 0, 1, 0], [0, -1, 0, 1]])
_FROM_CENTRE = np.linalg.inv(_TO_CENTRE)


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

    def move(self, elapsed: float, noise: np.ndarray) -> None:
        """Move every track on by some time; noise: (3, 4, T) or (3, 4, 1), added to the planes of the covariance."""
        e = elapsed
        step = np.array([[1, e, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 2 * e, e * e], [0, 0, 0, 1, e], [0, 0, 0, 0, 1]])
        self.state = (step @ self.state.reshape(5, -1)).reshape(self.state.shape)
        self.state[2:] += noise

    def pull(self, index: np.ndarray, measured: np.ndarray, measured_var: np.ndarray) -> None:
        """Pull the tracks at `index` (M,) towards what was measured: (4, M), with its variance."""
        if not len(index):
            return
        state = self.state.take(index, axis=2)
        gain = state[2:4] / (state[2] + measured_var)  # of the position, of the velocity
        state[:2] += gain * (measured - state[0])
        state[4] -= gain[1] * state[3]
        state[2:4] *= 1 - gain[0]
        self.state[:, :, index] = state

    def add(self, position: np.ndarray, position_var: np.ndarray, velocity_var: np.ndarray) -> None:
        """Add tracks at rest: (4, M) positions, with variances that broadcast to them."""
        state = np.zeros((5, *position.shape))
        state[0], state[2], state[4] = position, position_var, velocity_var
        self.state = np.concatenate([self.state, state], axis=2)

    def keep(self, mask: np.ndarray) -> None:
        """Forget the tracks where the (T,) mask is False."""
        self.state = self.state[:, :, mask]


def _growth(push_variance: np.ndarray) -> np.ndarray:
    """(3, 12): what a second, its square and its cube add to the (3, 4) planes of the covariance of a pixel's size."""
    growth = np.zeros((3, 3, 4))
    growth[0, 0], growth[0, 2] = WANDER_VARIANCE, push_variance
    growth[1, 1], growth[2, 0] = push_variance / 2, push_variance / 3
    return growth.reshape(3, 12)


class BoxMotion(Motion):
    """T moving boxes in real time: seconds, not frames.

    A box is centre x, centre y, width, height, pixels; velocity is per second.
    Noise grows with the object's size, sqrt(width * height): what is large in
    the image is near, and moves by more pixels. Sizes wander but have no
    velocity, else a box that is lost for a while would grow or shrink away.
    """

    growth, start_var = _growth(PUSH_VARIANCE), MEASURED_STD**2
    start_speed_var: np.ndarray | float = START_SPEED_STD[:, None] ** 2

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) float32 xyxy, pixels."""
        return from_centre(self.state[0])

    def predict(self, elapsed_s: float) -> None:
        """Move every box on by the time that has passed, growing its uncertainty (white-noise acceleration)."""
        if not len(self):
            return
        growth = np.array([elapsed_s, elapsed_s**2, elapsed_s**3]) @ self.growth
        self.move(elapsed_s, growth.reshape(3, 4, 1) * self.size_2(self.state[0]))

    def correct(self, index: np.ndarray, boxes: np.ndarray) -> None:
        """Pull the boxes at `index` (M,) towards the detected ones: (M, 4) xyxy, pixels."""
        measured = to_centre(boxes)
        self.pull(index, measured, MEASURED_STD**2 * self.size_2(measured))

    def append(self, boxes: np.ndarray) -> None:
        """Add boxes (M, 4) xyxy at rest, of unknown speed."""
        position = to_centre(boxes)
        size_2 = self.size_2(position)
        self.add(position, self.start_var * size_2, self.start_speed_var * size_2)

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

    BoT-SORT's state (Aharon et al. 2022, equations 1 to 6), in seconds. What
    is measured is as uncertain as the expected box is large.
    """

    growth, start_var = _growth(np.full(4, 30**3 / 160**2)), 4 * MEASURED_STD**2
    start_speed_var = (300 / 160) ** 2

    def correct(self, index: np.ndarray, boxes: np.ndarray) -> None:
        """Pull the boxes at `index` (M,) towards the detected ones: (M, 4) xyxy, pixels."""
        expected = self.size_2(self.state[0].take(index, axis=1))
        self.pull(index, to_centre(boxes), MEASURED_STD**2 * expected)

    @staticmethod
    def size_2(position: np.ndarray) -> np.ndarray:
        """(4, T) squared width, height, width, height; at least one pixel."""
        return np.maximum(position[[2, 3, 2, 3]] ** 2, 1.0)


def to_centre(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) xyxy to (4, M) centre x, centre y, width, height, as float64: variances need the room."""
    return _TO_CENTRE @ boxes.T.astype(np.float64)


def from_centre(position: np.ndarray) -> np.ndarray:
    """(4, T) centre x, centre y, width, height to (T, 4) float32 xyxy."""
    return (_FROM_CENTRE @ position).astype(np.float32).T
