"""The wire: what two processes must agree on. Only this package knows pika and msgpack."""
