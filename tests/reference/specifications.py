"""Specifications of data for tests."""

from convlstm.data.specification import Specification, plain_transform
from convlstm.data.transforms import Logarithm, Transform


def specified(
    units: str = "mm/h", transform: Transform | None = None, variables: tuple[str, ...] = ("rain",)
) -> Specification:
    """A specification of 5-minute frames."""
    return Specification(
        variables=variables,
        units=units,
        transform=plain_transform(transform or Logarithm()),
        dry_value=0.0,
        step_s=300.0,
        dated=True,
        grid={"shape": [20, 24]},
        missing=(),
        data_range=100.0,
        past=2,
        steps=3,
        splits={},
        fingerprint="",
    )
