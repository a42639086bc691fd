"""The batched filter against a textbook one with full matrices."""

import numpy as np
import pytest

from edgedet.tracking.kalman import MEASURED_STD, PUSH_VARIANCE, START_SPEED_STD, WANDER_VARIANCE, BoxMotion, SideMotion


def textbook(measurements, elapsed_s):
    """Mean (8,) and covariance (8, 8) after the measurements (M, 4) cxcywh, one every elapsed_s seconds."""
    size_2 = measurements[0][2] * measurements[0][3]
    mean = np.concatenate([measurements[0], np.zeros(4)])
    covariance = size_2 * np.diag(np.concatenate([np.full(4, MEASURED_STD**2), START_SPEED_STD**2]))
    move = np.eye(8) + elapsed_s * np.eye(8, k=4)
    look = np.eye(4, 8)
    for measured in measurements[1:]:
        size_2 = mean[2] * mean[3]
        push = np.diag(PUSH_VARIANCE)
        noise = np.block([[elapsed_s**3 / 3 * push, elapsed_s**2 / 2 * push], [elapsed_s**2 / 2 * push, elapsed_s * push]])
        noise[:4, :4] += elapsed_s * WANDER_VARIANCE * np.eye(4)
        mean, covariance = move @ mean, move @ covariance @ move.T + size_2 * noise
        spread = look @ covariance @ look.T + MEASURED_STD**2 * measured[2] * measured[3] * np.eye(4)
        gain = covariance @ look.T @ np.linalg.inv(spread)
        mean, covariance = mean + gain @ (measured - look @ mean), (np.eye(8) - gain @ look) @ covariance
    return mean, covariance


def xyxy(centres):
    return np.concatenate([centres[:, :2] - centres[:, 2:] / 2, centres[:, :2] + centres[:, 2:] / 2], axis=1)


def test_batched_filter_equals_the_textbook_for_every_box():
    random = np.random.default_rng(0)
    start = np.array([[100, 80, 40, 90], [400, 300, 120, 60], [20, 20, 8, 8]], float)
    frames = [start + i * np.array([3, -2, 0.1, 0.2]) + random.normal(0, 1, start.shape) for i in range(12)]
    motion = BoxMotion()
    motion.append(xyxy(frames[0]))
    for frame in frames[1:]:
        motion.predict(0.04)
        motion.correct(np.arange(3), xyxy(frame))
    for box in range(3):
        mean, covariance = textbook([frame[box] for frame in frames], 0.04)
        np.testing.assert_allclose(np.r_[motion.position[box], motion.velocity[box]], mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(motion.position_var[box], np.diag(covariance)[:4], rtol=1e-9)
        np.testing.assert_allclose(motion.velocity_var[box], np.diag(covariance)[4:], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(motion.cross_var[box], np.diag(covariance, k=4), rtol=1e-9, atol=1e-12)


def test_velocity_is_learned_in_pixels_per_second_whatever_the_frame_rate():
    for fps in (5, 30):
        motion = BoxMotion()
        for i in range(2 * fps):
            box = np.array([[100 + 60 * i / fps, 50, 140 + 60 * i / fps, 130]])
            motion.predict(1 / fps)
            if i == 0:
                motion.append(box)
            else:
                motion.correct(np.array([0]), box)
        assert motion.velocity[0, 0] == pytest.approx(60, abs=2)  # tolerance: what is left of the start at rest


def test_two_short_steps_without_detection_equal_one_long_step():
    once, twice = BoxMotion(), BoxMotion()
    for motion in (once, twice):
        motion.append(np.array([[0, 0, 10, 20]]))
        motion.velocity[:] = [5, -3, 0, 0]
    once.predict(0.4)
    twice.predict(0.1)
    twice.predict(0.3)
    for name in ("position", "position_var", "cross_var", "velocity_var"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-12)


def published_botsort(measurements):
    """Mean (8,) after the measurements (M, 4) cxcywh, a frame apart, by equations 1 to 6 of BoT-SORT's paper."""
    sides = np.tile(measurements[0][2:], 4)
    mean = np.concatenate([measurements[0], np.zeros(4)])
    covariance = np.diag((sides * np.repeat([2 / 20, 10 / 160], 4)) ** 2)
    move, look = np.eye(8) + np.eye(8, k=4), np.eye(4, 8)
    for measured in measurements[1:]:
        noise = np.diag((np.tile(mean[2:4], 4) * np.repeat([1 / 20, 1 / 160], 4)) ** 2)
        mean, covariance = move @ mean, move @ covariance @ move.T + noise
        spread = look @ covariance @ look.T + np.diag((np.tile(mean[2:4], 2) / 20) ** 2)
        gain = covariance @ look.T @ np.linalg.inv(spread)
        mean, covariance = mean + gain @ (measured - look @ mean), (np.eye(8) - gain @ look) @ covariance
    return mean


def test_botsorts_filter_at_thirty_frames_a_second_is_that_of_the_paper():
    """Tolerance, pixels: the paper pushes velocities between frames, here they are pushed all the time."""
    random = np.random.default_rng(0)
    frames = [np.array([100 + 3 * i, 80 - i, 40 + 4 * i, 90 + 7 * i]) + random.normal(0, 3, 4) for i in range(12)]
    motion = SideMotion()
    motion.append(xyxy(frames[0][None]))
    for count, frame in enumerate(frames[1:], 2):
        motion.predict(1 / 30)
        motion.correct(np.array([0]), xyxy(frame[None]))
        expected = published_botsort(frames[:count])
        np.testing.assert_allclose(motion.position[0], expected[:4], atol=0.05)
        np.testing.assert_allclose(motion.velocity[0] / 30, expected[4:], atol=0.05)
