"""The documents say what the code says."""

import re

import pytest

from medd import hookspecs
from tests.support import ROOT


def test_generated_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import generate

    assert generate.stale() == []


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_plugin_guide_names_only_hooks_that_exist() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text()
    named = set(re.findall(r"def (\w+_\w+)\(", text)) - {"test_my_classifier_keeps_the_contract"}
    assert named
    assert all(hasattr(hookspecs, name) for name in named)


def test_the_plugin_guides_bundle_and_classifier_work(tmp_path) -> None:
    import numpy as np

    from medd.registry import bundle as bundles

    text = (ROOT / "docs" / "plugins.md").read_text()
    (described,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (tmp_path / "bundle.json").write_text(described)
    assert bundles.read(tmp_path).ref == "mine/1"
    model = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Mine" in code)
    namespace: dict = {}
    exec(model, namespace)
    scores = namespace["load"](tmp_path, 0).predict(np.full((3, 8, 8, 1), 0.25, np.float32))
    assert scores.tolist() == [[0.75, 0.25]] * 3
