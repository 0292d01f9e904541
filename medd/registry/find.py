"""Finding a bundle by what a person calls it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from medd.errors import ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.registry import bundle as bundles
from medd.registry.registry import find_spec


def find_folder(wanted: str, specs: Sequence[ClassifierSpec], models_dir: Path) -> Path:
    """The folder of a bundle that is named by its folder, or as "name/version".

    Args:
        wanted: What the user said.
        specs: The classifiers that the plugins registered: their bundles are looked at first.
        models_dir: Where bundles lie that were made here.

    Raises:
        SettingsError: There is none, and the message lists those that are there; or it cannot be looked for.
    """
    try:
        if (Path(wanted) / bundles.DESCRIPTION).is_file():
            return Path(wanted)
    except OSError as error:
        raise SettingsError(f"model {wanted!r}: {error.strerror}") from error
    known: dict[str, Path] = {}
    for folder in _folders(specs, models_dir):
        try:
            ref = bundles.read(folder, verify=False).ref
        except ModelUnusable:
            continue  # whoever wants that one is told when it is named by its folder
        known.setdefault(ref, folder)
    if wanted in known:
        return known[wanted]
    there = ", ".join(sorted(known)) or "none"
    raise SettingsError(
        f"model {wanted!r}: neither a bundle's folder nor NAME/VERSION of one of these. Received: {there}"
    )


def shipped(classifier: str, specs: Sequence[ClassifierSpec]) -> Path:
    """The folder of the bundle that a classifier's plugin ships.

    Raises:
        SettingsError: No plugin brings the classifier, or it ships none.
    """
    folder = find_spec(classifier, specs).bundle
    if folder is None:
        raise SettingsError(f"classifier {classifier!r} ships no model; name one with --model")
    return folder


def _folders(specs: Sequence[ClassifierSpec], models_dir: Path) -> Iterator[Path]:
    yield from (spec.bundle for spec in specs if spec.bundle)
    yield from sorted(file.parent for file in models_dir.glob(f"*/{bundles.DESCRIPTION}"))
