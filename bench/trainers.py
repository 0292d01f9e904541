"""One training, in a process of its own, by `medd train`'s loop or by the textbook's. Called by training.py.

The specification comes as JSON on standard input; times and scores go as JSON to the last line of standard output.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

#: Of the textbook's loop.
BATCH = 16


def medd(spec: dict) -> dict:
    """The loop of `medd train`; with spec["test"] the whole of it, and the bundle's scores by the serving runtime."""
    import numpy as np
    from rich.console import Console

    from medd import pipeline, plugins, settings
    from medd.classify import classifier
    from medd.imaging.pixels import load
    from medd.imaging.preprocess import preprocess
    from medd.learn import train as learn
    from medd.learn.fit import classes_of, fit
    from medd.learn.options import read_options

    learn.require_extra()
    import keras  # noqa: F401  the clock starts when everything is imported, on both sides

    given = {"epochs": spec["epochs"], "steps_per_epoch": spec["steps"], "seed": spec["seed"], "split_seed": 0}
    given["precision"] = spec["precision"]
    options = read_options(Path(spec["recipe"]), given | {"version": "1"})
    # An epoch is as many images as the textbook's, however many the recipe takes at a time.
    options = options.model_copy(update={"steps_per_epoch": max(1, spec["steps"] * BATCH // options.batch_size)})
    specs = plugins.classifiers(pipeline.load_plugins(settings.load(Path(spec["scratch"]), None)))
    console = Console(file=sys.stderr)
    start = time.perf_counter()
    if not spec["test"]:
        prepared = learn.prepare(Path(spec["table"]), options, console)
        decoded = time.perf_counter()
        ends: list[float] = []
        network = learn.trainable(options.network, specs)
        classes = classes_of(prepared.samples, prepared.labels, options.sublabels)
        fit(network, prepared.parts, classes, options, console, on_epoch=lambda *_: ends.append(time.perf_counter()))
        images = options.batch_size * options.steps_per_epoch
        return {"images": images, "read_s": decoded - start, "ends": [end - start for end in ends]}

    output = Path(spec["scratch"]) / "bundle"
    learn.train(Path(spec["table"]), output, options, specs, console=console)
    model = classifier.load(output, specs)
    raw: list[float] = []
    served: list[float] = []
    positive = np.isin(model.bundle.labels, model.bundle.positive_labels)
    for path in spec["test"]:
        batch = preprocess(load(Path(path)), model.bundle.preprocess)[np.newaxis]
        raw.append(float(model.classifier.predict(batch)[0, positive].sum()))
        served.append(float(model.predict(batch)[0, positive].sum()))
    return {
        "scores": raw,
        "served": served,
        "threshold": model.bundle.threshold,
        "seconds": time.perf_counter() - start,
    }


def textbook(spec: dict) -> dict:
    """What the article and most tutorials show: `ImageDataGenerator.flow_from_directory` and `fit`."""
    import keras
    from keras.src.legacy.preprocessing.image import ImageDataGenerator  # tf.keras.preprocessing.image, as it was
    from textbook import paper_network

    keras.utils.set_random_seed(spec["seed"])
    start = time.perf_counter()
    augmented = ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=10,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.2,
        horizontal_flip=True,
    )
    train = augmented.flow_from_directory(
        spec["folder"], target_size=(150, 150), batch_size=BATCH, class_mode="binary", seed=spec["seed"]
    )
    model = paper_network()
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter() - start))
    model.fit(train, steps_per_epoch=spec["steps"], epochs=spec["epochs"], callbacks=[clock], verbose=2)
    result = {"images": BATCH * spec["steps"], "read_s": 0.0, "ends": ends}
    if spec["test"]:
        import numpy as np

        scores: list[float] = []
        for path in spec["test"]:
            image = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(150, 150))) / 255
            scores.append(float(model.predict_on_batch(image[np.newaxis])[0, 0]))
        result |= {"scores": scores, "served": scores, "threshold": 0.5, "seconds": time.perf_counter() - start}
    return result


if __name__ == "__main__":
    trained = {"medd": medd, "textbook": textbook}[sys.argv[1]](json.load(sys.stdin))
    print(json.dumps(trained))
