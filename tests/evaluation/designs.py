"""A protocol as a study names it, for the tests of the designs."""

from __future__ import annotations

from typing import Any

from regatta.config.schema import ProtocolSection
from regatta.evaluation.protocols import Protocol, resolve_protocol


def resolve(name: str, **options: Any) -> Protocol:
    return resolve_protocol(ProtocolSection.model_validate({"name": name, "options": options}))
