"""Translations and the English pages that they were made from: ``python docs/scripts/translations.py check``.

The front matter of ``page.zh.md`` keeps a digest of ``page.md``. ``check`` lists the translations whose page
has changed since; ``accept PAGE.zh.md ...`` writes the new digest, after the change has been translated.
"""

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_DIGEST = re.compile(r"\A(---\n|<!-- )translates: (\w*)")


def translations() -> list[Path]:
    """Translated pages, README.zh.md first."""
    return [ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.zh.md"))]


def english(path: Path) -> Path:
    """The page that a translation is of."""
    return path.with_name(path.name.replace(".zh.md", ".md"))


def digest(path: Path) -> str:
    """Digest of the English page of a translation as it is."""
    return hashlib.sha256(english(path).read_bytes()).hexdigest()[:16]


def is_current(path: Path) -> bool:
    """True if the English page has not changed since its translation."""
    found = _DIGEST.match(path.read_text())
    return found is not None and found[2] == digest(path)


def accept(path: Path) -> None:
    """Write the digest of the English page as it is."""
    path.write_text(_DIGEST.sub(rf"\1translates: {digest(path)}", path.read_text()))


def main(words: list[str]) -> str | None:
    """Run the command; a message if a translation is out of date or the command is unknown."""
    if words == ["check"]:
        old = [path.relative_to(ROOT) for path in translations() if not is_current(path)]
        return (
            "\n".join(f"{path}: {english(path).name} changed since its translation" for path in old) or None
        )
    if words[:1] != ["accept"] or len(words) == 1:
        return __doc__
    for word in words[1:]:
        accept(Path(word))
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
