"""What a user would write: pynetdicom's textbook handler with the network inside. The yardstick, not a part of medd."""

import argparse
import os
import sqlite3
import threading
from pathlib import Path

import cv2
import numpy as np
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event


def paper_network():
    """The article's network, untrained: the time of `predict` does not depend on the weights."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((150, 150, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def load_network(path: Path):
    import keras

    return keras.models.load_model(path) if path.exists() else paper_network()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--model", type=Path, help="a Keras model; without it images are only stored")
    args = parser.parse_args()

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    model = load_network(args.model) if args.model else None
    db = sqlite3.connect(args.folder / "results.db", check_same_thread=False)
    db.execute("CREATE TABLE result (sop_instance_uid TEXT PRIMARY KEY, path TEXT, probability REAL)")
    # pynetdicom calls the handler from one thread per association.
    lock = threading.Lock()

    def handle_store(event: Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        path = args.folder / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path)
        probability = None
        if model is not None:
            image = ds.pixel_array.astype(np.float32) / (2**ds.BitsStored - 1)
            image = cv2.resize(image, (150, 150))
            batch = np.repeat(image[np.newaxis, :, :, np.newaxis], 3, axis=3)
            with lock:
                probability = float(model.predict(batch, verbose=0)[0, 0])
        with lock, db:
            db.execute("INSERT INTO result VALUES (?, ?, ?)", (ds.SOPInstanceUID, str(path), probability))
        return 0x0000

    ae = AE("MEDD")
    ae.supported_contexts = AllStoragePresentationContexts
    ae.maximum_associations = 25
    ae.start_server(("127.0.0.1", args.port), evt_handlers=[(evt.EVT_C_STORE, handle_store)])


if __name__ == "__main__":
    main()
