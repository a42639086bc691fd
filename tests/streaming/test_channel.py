"""The queue between two threads."""

import threading

import pytest

from edgedet.streaming.channel import Channel


def test_items_arrive_in_order_through_a_narrow_channel():
    channel: Channel[int] = Channel(2)

    def send():
        for item in range(500):
            channel.put(item)
        channel.close()

    thread = threading.Thread(target=send)
    thread.start()
    assert list(channel) == list(range(500))
    thread.join()


def test_an_error_comes_after_what_was_sent_before_it():
    channel: Channel[int] = Channel(4)
    channel.put(1)
    channel.close(ValueError("broken"))
    assert next(channel) == 1
    with pytest.raises(ValueError, match="broken"):
        next(channel)


def test_a_channel_that_drops_the_oldest_never_makes_the_sender_wait():
    channel: Channel[int] = Channel(1, when_full="drop-oldest")
    assert all(channel.put(item) for item in range(10))
    channel.close()
    assert list(channel) == [9]


def test_cancelling_frees_a_waiting_sender_and_returns_what_was_waiting():
    channel: Channel[int] = Channel(1)
    channel.put(1)
    accepted = []
    thread = threading.Thread(target=lambda: accepted.append(channel.put(2)))
    thread.start()
    assert channel.cancel() == [1]
    thread.join(5)
    assert accepted == [False]
    assert list(channel) == []
