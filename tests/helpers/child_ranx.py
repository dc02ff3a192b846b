"""Metrics of ranx in a process of its own: there its loops need not be compiled, which would take most of a minute.

Reads [qrels, run, names] as JSON and prints {name: [a number a query]}.
"""

import json
import sys

from ranx import Qrels, Run, evaluate

qrels, run, names = json.load(sys.stdin)
found = evaluate(Qrels(qrels), Run(run), names, return_mean=False)
json.dump({name: values.tolist() for name, values in found.items()}, sys.stdout)
