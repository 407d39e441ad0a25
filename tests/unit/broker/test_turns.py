"""Nodes of a cluster in turn: the one that fails comes last, and a sweep asks each once."""

import random

from broker.rabbitmq.links import Turns

NODES = ("amqp://a", "amqp://b", "amqp://c")


def in_order(*addresses: str) -> Turns:
    return Turns(addresses, shuffle=lambda order: None)


def test_all_are_asked_once_beginning_with_the_current_one() -> None:
    turns = in_order(*NODES)
    assert list(turns.each_once()) == list(NODES)
    assert turns.current == "amqp://a"


def test_who_answers_stays_the_current_one_and_who_failed_comes_last() -> None:
    turns = in_order(*NODES)
    for address in turns.each_once():
        if address == "amqp://b":
            break
    assert turns.current == "amqp://b"
    turns.pass_on()
    assert list(turns.each_once()) == ["amqp://c", "amqp://a", "amqp://b"]


def test_a_fleet_spreads_over_the_nodes() -> None:
    firsts = {Turns(NODES, shuffle=random.Random(seed).shuffle).current for seed in range(20)}
    assert firsts == set(NODES)
    assert {Turns(NODES).current for _ in range(200)} == set(NODES)


def test_two_connections_of_one_process_begin_at_the_same_node_and_go_on_by_themselves() -> None:
    turns = Turns(NODES)
    writer, reader = turns.copy(), turns.copy()
    assert writer.current == reader.current == turns.current
    writer.pass_on()
    assert reader.current == turns.current != writer.current
