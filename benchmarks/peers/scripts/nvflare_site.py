"""Adds a constant of its own to the model and sends it back; NVFLARE runs it in each client's process."""

import nvflare.client as flare

STEP = 0.001


def main() -> None:
    flare.init()
    constant = STEP * int(flare.get_site_name().rpartition("-")[2])  # site-1, site-2, …
    while flare.is_running():
        model = flare.receive()
        if model is None:
            return
        trained = {name: values + constant for name, values in model.params.items()}
        flare.send(flare.FLModel(params=trained, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


if __name__ == "__main__":
    main()
