"""Adds a constant to the model and sends it back."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

STEP = np.float32(0.001)

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    received = message.content["arrays"]
    trained = ArrayRecord({name: Array(array.numpy() + STEP) for name, array in received.items()})
    reply = RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 1})})
    return Message(reply, reply_to=message)
