"""Collaborative descent with simulated contributors: what would come of it, before anybody is asked to take part.

`settings` is the file that says what is simulated, `loop` grows the generations, `controls` spends the same effort
otherwise, `scoring` measures everything, `ensemble` asks the finetunes together, `ledger` keeps what was done: a killed
simulation goes on where it was.
"""
