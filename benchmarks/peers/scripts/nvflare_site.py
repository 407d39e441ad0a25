"""Adds a constant to the model and sends it back; NVFLARE runs it in each client's process."""

import nvflare.client as flare

STEP = 0.001


def main() -> None:
    flare.init()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            return
        trained = {name: values + STEP for name, values in model.params.items()}
        flare.send(flare.FLModel(params=trained, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


if __name__ == "__main__":
    main()
