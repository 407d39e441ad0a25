"""Adds a constant of its own to the model and sends it back: Flower moves and keeps equal tensors only once."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

STEP = 0.001

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    received = message.content["arrays"]
    constant = np.float32(STEP * (1 + int(context.node_config["partition-id"])))
    trained = ArrayRecord({name: Array(array.numpy() + constant) for name, array in received.items()})
    reply = RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 1})})
    return Message(reply, reply_to=message)
