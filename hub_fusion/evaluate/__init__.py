"""Is the candidate a better base? Tasks nobody contributed to → protocols → scores → the gate's verdict.

`tasks` reads held-out tasks, `models` opens a checkpoint as somebody who finetunes it would. The protocols: `probe` and
`fewshot` (with few examples or all of them; ColD-Frozen and the tests of ColD Fusion, arXiv 2212.01378), `logme`, and
for plain text `perplexity`. `suite` runs them all, `kept` and `features` remember, `scores` puts intervals on the
answers, `gate` decides. `soup` and `posterior` choose contributions and weights by such measurements, for use from
Python. Nothing is exported here, so that `gate` needs no numpy.
"""
