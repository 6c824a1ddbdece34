"""The model card of the Hugging Face hub: what a model is, its data, its scores, how to load it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.errors import OptionError, check_name
from convlstm.trust import packages_in

_TEMPLATE = """\
---
{metadata}
---

# {repository}

A `{kind}` of the Python library convlstm, with {weights:,} weights.

## How to load it
```python
from {module} import {kind}

model = {kind}.from_pretrained("{repository}"{trust})
output = model({call})
```

## Model
```json
{hyperparameters}
```

## Data
{data}

## Scores
{scores}

## License
{license}
"""


def check_card(card: bool | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a model card; none for True and False.

    Raises:
        OptionError: no mapping, or a field that does not exist.
    """
    if isinstance(card, bool):
        return {}
    if not isinstance(card, Mapping):
        raise OptionError(f"card must be True, False or a mapping of fields; received {card!r}")
    for name in card:
        check_name(name, ("license", "data", "scores"), "a field of a model card")
    return dict(card)


def model_card(
    config: Mapping[str, Any],
    repository: str,
    *,
    call: Sequence[str],
    weights: int,
    license: str | None = None,  # noqa: A002
    data: str | None = None,
    scores: str | Mapping[str, float] | None = None,
) -> str:
    """Return the text of a model card.

    Args:
        config: content of the model's ``config.json``; its notes are the data if ``data`` is None.
        repository: name from which the card's example loads the model.
        call: names of the required arguments of the model's ``forward``.
        weights: their number.
        license: identifier of the hub, such as ``mit``.
        data: what the model was trained on.
        scores: text, or a number by name.
    """
    from huggingface_hub import ModelCardData

    module, _, kind = config["class"].rpartition(".")
    trusted = sorted(packages_in(dict(config)))
    notes = [
        f"- {name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.items()
        if name not in ("schema", "class", "hyperparameters")
    ]
    if isinstance(scores, Mapping):
        rows = [f"| {name} | {value:.6g} |" for name, value in scores.items()]
        scores = "\n".join(["| score | value |", "|---|---|", *rows])
    metadata = ModelCardData(
        license=license or "unknown", library_name="convlstm", tags=["convlstm", "spatiotemporal-forecasting"]
    )
    return _TEMPLATE.format(
        metadata=metadata.to_yaml(),
        repository=repository,
        kind=kind,
        module=module,
        weights=weights,
        trust=f", trust={tuple(trusted)}" if trusted else "",
        call=", ".join(call),
        hyperparameters=json.dumps(config["hyperparameters"], indent=2),
        data=data or "\n".join(notes) or "Not stated.",
        scores=scores or "Not stated.",
        license=license or "Not stated.",
    )
