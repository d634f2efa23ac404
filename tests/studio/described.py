"""Bodies made from the API's own description."""

from __future__ import annotations

from typing import Any


def filled(schema: dict[str, Any], schemas: dict[str, Any], value: Any) -> Any:
    """A body of this shape with the value wherever one of its kind may stand."""
    if "$ref" in schema:
        return filled(schemas[schema["$ref"].rsplit("/", 1)[1]], schemas, value)
    if "anyOf" in schema:
        return filled(schema["anyOf"][0], schemas, value)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "object":
            return {name: filled(each, schemas, value) for name, each in schema.get("properties", {}).items()}
        case "array":
            return [filled(schema.get("items", {"type": "string"}), schemas, value)]
        case "string":
            return value if isinstance(value, str) else "text"
        case "integer" | "number":
            return 1 if isinstance(value, str) else value
        case "boolean":
            return True
    return value
