"""Whether the Hub would take this card: `/api/validate-yaml`, asked before a README is pushed.

Covered: YAML that parses, licence, base models, relation, evaluation results (`model-index`), and the types of the
fields that become tags. The Hub checks more (widgets, inference settings).
"""

from collections.abc import Iterator
from typing import Any

from starlette.responses import PlainTextResponse, Response

from hub_fusion.local_hub import frontmatter
from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.cards import RELATIONS, REPO_ID

_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c
ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""
LICENSES = _LICENSES.split()
MAX_RESULTS = 1000
TYPE_NAMES: dict[type, str] = {str: "a string", dict: "an object", list: "an array"}
TEXT_OR_LIST = ("tags", "language", "datasets", "metrics")
TEXT = ("library_name", "pipeline_tag", "license_name", "license_link")


def validate(call: Call) -> Response:
    """200 or 400 with errors and warnings, as JSON or as the text a card's author is shown."""
    request = call.json()
    content, kind = request.get("content"), request.get("repoType", "model")
    errors, warnings = check(content if isinstance(content, str) else "", kind)
    status = 400 if errors else 200
    if call.request.headers.get("accept", "").startswith("text/plain"):
        lines = [f"- Error: {text}" for text in errors] + [f"- Warning: {text}" for text in warnings]
        return PlainTextResponse("\n".join(lines), status)
    return answer(
        {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]},
        status,
    )


def check(card: str, kind: str = "model") -> tuple[list[str], list[str]]:
    """(errors, warnings) of a card."""
    block, _ = frontmatter.split(card)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = frontmatter.parse(block)
    except frontmatter.BadFrontMatter as error:
        return [f"The YAML metadata cannot be read: {error}"], []
    errors = [*_license_errors(data)]
    if kind == "model":
        errors += [*_base_errors(data), *_index_errors(data.get("model-index"))]
    for key in TEXT_OR_LIST:
        value = data.get(key)
        items = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(item, str) for item in items):
            errors.append(f'"{key}" must be a string or an array of strings')
    errors += [f'"{key}" must be a string' for key in TEXT if not isinstance(data.get(key, ""), str)]
    return errors, []


def _license_errors(data: dict[str, Any]) -> list[str]:
    value = data.get("license")
    if value is None or (value in LICENSES if isinstance(value, str) else _all_known(value)):
        return []
    return [f'"license" must be one of [{", ".join(LICENSES)}]']


def _all_known(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item in LICENSES for item in value)


def _base_errors(data: dict[str, Any]) -> list[str]:
    errors = []
    value = data.get("base_model")
    for base in value if isinstance(value, list) else [value]:
        if base is None and value is None:
            continue
        if not isinstance(base, str) or not REPO_ID.fullmatch(base):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    relation = data.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    return errors


def _index_errors(index: Any) -> list[str]:
    """What is wrong with evaluation results: models, their results, and each result's task, dataset and metrics."""
    if index is None:
        return []
    errors: list[str] = []
    for at, model in _items(index, "model-index", errors):
        _need(model, at, {"name": str}, errors)
        if "results" not in model:
            continue
        for where, result in _items(model["results"], f"{at}.results", errors):
            for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
                if _need(result, where, {part: dict}, errors):
                    _need(result[part], f"{where}.{part}", dict.fromkeys(keys, str), errors)
            if _need(result, where, {"metrics": list}, errors):
                for spot, metric in _items(result["metrics"], f"{where}.metrics", errors):
                    _need(metric, spot, {"type": str, "value": object}, errors)
    return errors


def _items(value: Any, name: str, errors: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, item) of a list of mappings; what is none of them goes to `errors`."""
    if not isinstance(value, list):
        errors.append(f'"{name}" must be an array')
        return
    for at, item in enumerate(value[:MAX_RESULTS]):
        if isinstance(item, dict):
            yield f"{name}[{at}]", item
        else:
            errors.append(f'"{name}[{at}]" must be an object')


def _need(item: dict[str, Any], name: str, keys: dict[str, type], errors: list[str]) -> bool:
    """Whether all keys are there with the right type; says in `errors` which are not."""
    before = len(errors)
    for key, wanted in keys.items():
        if item.get(key) is None:
            errors.append(f'"{name}.{key}" is required')
        elif not isinstance(item[key], wanted):
            errors.append(f'"{name}.{key}" must be {TYPE_NAMES[wanted]}')
    return len(errors) == before


ROUTES = [Route("POST", "/api/validate-yaml", validate)]
