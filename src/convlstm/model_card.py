"""The model card of the Hugging Face hub: what a model is, its data, its scores, how to load it."""

import inspect
import json
from collections.abc import Mapping
from numbers import Real
from typing import Any

from torch import nn

from convlstm.errors import OptionError, check_name
from convlstm.trust import packages_in
from convlstm.validation import received

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
        OptionError: no mapping, a field that does not exist, or one of another type.
    """
    if isinstance(card, bool):
        return {}
    if not isinstance(card, Mapping):
        raise OptionError(f"card must be True, False or a mapping of fields; received {card!r}")
    for name, value in card.items():
        check_name(name, ("license", "data", "scores"), "a field of a model card")
        table = name == "scores" and isinstance(value, Mapping)
        parts, kinds = (value.values(), Real) if table else ([value], str | None)
        if not all(isinstance(part, kinds) for part in parts):
            kind = "text, or numbers by name" if name == "scores" else "text"
            raise OptionError(f"{name} of a model card must be {kind}; received {received(value)}: give that")
    return dict(card)


def model_card(model: nn.Module, text: str, repository: str, fields: Mapping[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        model: whose weights are counted and whose ``forward`` the card's example calls.
        text: content of its ``config.json``; its notes are the data if ``fields`` has none.
        repository: name from which the card's example loads the model.
        fields: any of ``license`` (an identifier of the hub, such as ``mit``), ``data`` (what the model was
            trained on) and ``scores`` (text, or a number by name).
    """
    from huggingface_hub import ModelCardData

    config = json.loads(text)
    module, _, kind = config["class"].rpartition(".")
    trusted = sorted(packages_in(config))
    parameters = inspect.signature(model.forward).parameters.values()
    call = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    notes = [
        f"- {name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.items()
        if name not in ("schema", "class", "hyperparameters")
    ]
    license_, scores = fields.get("license"), fields.get("scores")
    if isinstance(scores, Mapping):
        rows = [f"| {name} | {value:.6g} |" for name, value in scores.items()]
        scores = "\n".join(["| score | value |", "|---|---|", *rows])
    metadata = ModelCardData(
        license=license_ or "unknown",
        library_name="convlstm",
        tags=["convlstm", "spatiotemporal-forecasting"],
    )
    return _TEMPLATE.format(
        metadata=metadata.to_yaml(),
        repository=repository,
        kind=kind,
        module=module,
        weights=sum(parameter.numel() for parameter in model.parameters()),
        trust=f", trust={tuple(trusted)}" if trusted else "",
        call=", ".join(call),
        hyperparameters=json.dumps(config["hyperparameters"], indent=2),
        data=fields.get("data") or "\n".join(notes) or "Not stated.",
        scores=scores or "Not stated.",
        license=license_ or "Not stated.",
    )
