"""The README's Python runs as it stands, but for a smaller training run."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(snippets) == 4
    code = "\n".join(snippets)
    small = {
        "batch_size=8, learning_rate=0.005, epochs=5": "batch_size=4, epochs=1",
        "train_size=1600": "train_size=8, validation_size=4, test_size=4",
        "hidden_dim=[32, 32], patch_size=4": "hidden_dim=[4, 4]",
    }
    for full, tiny in small.items():
        assert full in code
        code = code.replace(full, tiny)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs/from-python/report.html").exists()
    assert (tmp_path / "my-layer/model.safetensors").exists()


def test_it_stays_short_and_shows_a_picture_that_exists():
    lines = README.read_text().splitlines()
    assert len(lines) < 200
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text()):
        assert (README.parent / picture).exists()
