"""Two processes for one round: a keeper, which holds the write token, and a worker, which reads what strangers wrote.

The worker runs the main path and has no token that may write. What a round changes on the Hub (deeds.py) it asks the
keeper for, one JSON line each over a socket that it inherits: asked.py on its side, wire.py what is said, serving.py on
the keeper's side, with the rules of rules.py. process.py starts the worker, tokens.py is what it must not see.
"""
