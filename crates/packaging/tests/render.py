# Loads, checks and renders a chart by Helm's own engine; JSON out.
# Arguments: chart, namespace, values as JSON.
import json
import sys

import helm_python as helm

path, namespace, values = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
out = {"lint": helm.lint(path, values, strict=True, kube_version="v1.32.0")}
with helm.Chart.load(path) as chart:
    try:
        chart.validate_schema(values)
        out["manifests"] = chart.render(values, name="bulkhead", namespace=namespace)
    except helm.HelmError as error:
        out["refused"] = str(error)
json.dump(out, sys.stdout)
