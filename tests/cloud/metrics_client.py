"""Reads figures from standard input with Prometheus's own parser, and prints them as JSON.

    metrics_client.py <metrics.txt

{"families": {NAME: TYPE}, "samples": [[NAME, {LABEL: VALUE}, NUMBER]…]}. Ends with a traceback when it isn't the format.
"""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

families, samples, seen = {}, [], set()
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.name not in families, f"{family.name} comes twice"
    assert family.type != "unknown" and family.documentation, family
    families[family.name] = family.type
    for sample in family.samples:
        series = (sample.name, tuple(sorted(sample.labels.items())))
        assert series not in seen, f"{series} comes twice"
        seen.add(series)
        samples.append([sample.name, sample.labels, sample.value])
json.dump({"families": families, "samples": samples}, sys.stdout)
