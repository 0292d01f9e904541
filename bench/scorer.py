"""One runtime with one bundle, in a process of its own. Called by inference.py.

It scores one image file as soon as it can and says so in a line of JSON; then each line of JSON on standard input asks
for a measurement, and a line with its result comes back.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def medd(folder: Path, image: Path) -> dict:
    """The classifier that the worker loads: one call for each way to ask it."""
    import numpy as np

    from medd import pipeline, plugins, settings
    from medd.classify import classifier
    from medd.imaging.pixels import load
    from medd.imaging.preprocess import preprocess

    specs = plugins.classifiers(pipeline.load_plugins(settings.load(folder, None)))
    model = classifier.load(folder, specs)
    model.predict(preprocess(load(image), model.bundle.preprocess)[np.newaxis])
    calls = {"predict": model.predict, "plain": model.classifier.predict}
    if hasattr(model.classifier, "explain"):
        calls["heat"] = model.classifier.explain
        one = model.explain(np.zeros((1, *model.bundle.preprocess.input_shape), np.float32))
        if one.heat is None:
            del calls["heat"]
    return calls


def keras(folder: Path, image: Path) -> dict:
    """What Keras' documentation shows."""
    import keras

    size, channels = (json.loads((folder / "bundle.json").read_text())["preprocess"][k] for k in ("size", "channels"))
    model = keras.models.load_model(folder / "model.keras")
    mode = "rgb" if channels == 3 else "grayscale"
    pixels = keras.utils.img_to_array(keras.utils.load_img(image, color_mode=mode, target_size=(size, size))) / 255
    model.predict(pixels[None], verbose=0)
    return {"predict": lambda batch: model.predict(batch, verbose=0), "predict_on_batch": model.predict_on_batch}


def measure(call, batch, seconds: float) -> list[float]:
    """How long each call took, seconds; after as many that do not count as count at least."""
    least = 3 if seconds >= 1 else 1
    for _ in range(least):
        call(batch)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call(batch)
        took.append(time.perf_counter() - start)
    return took


def main() -> None:
    runtime, folder, image = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    calls = {"medd": medd, "keras": keras}[runtime](folder, image)
    print(json.dumps({"calls": sorted(calls)}), flush=True)

    import numpy as np

    spec = json.loads((folder / "bundle.json").read_text())["preprocess"]
    for line in sys.stdin:
        wanted = json.loads(line)
        shape = (wanted["images"], spec["size"], spec["size"], spec["channels"])
        batch = np.random.default_rng(0).random(shape, np.float32)
        print(json.dumps(measure(calls[wanted["call"]], batch, wanted["seconds"])), flush=True)


if __name__ == "__main__":
    main()
