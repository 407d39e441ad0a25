"""The broker's configuration in the chart is given to a node: no schema knows what RabbitMQ makes of its text."""

from pathlib import Path

import pytest
from rabbitmq_node import NodeError, RabbitNode, skip_without_rabbitmq
from rendered_chart import EXAMPLES, objects_of, of_kind

pytestmark = pytest.mark.timeout(180)


def configurations() -> set[str]:
    clusters = [cluster for example in EXAMPLES for cluster in of_kind(objects_of(example), "RabbitmqCluster")]
    return {cluster["spec"]["rabbitmq"]["additionalConfig"] for cluster in clusters}


def test_a_node_starts_with_it_and_goes_by_it(tmp_path: Path) -> None:
    skip_without_rabbitmq()
    (config,) = configurations()  # the examples have one in common
    with RabbitNode(tmp_path, extra_config=config) as node:
        for line in ("max_message_size = 13631488", "consumer_timeout = 7200000"):
            name, _, value = line.partition(" = ")
            assert line in config
            assert node.ctl("eval", f"application:get_env(rabbit, {name}).").strip() == f"{{ok,{value}}}"


def test_a_node_does_not_start_with_a_line_that_is_misspelt(tmp_path: Path) -> None:
    skip_without_rabbitmq()
    (config,) = configurations()
    with pytest.raises(NodeError, match="ended while it started"):
        RabbitNode(tmp_path, extra_config=config.replace("consumer_timeout", "consumer_timeut")).start()
