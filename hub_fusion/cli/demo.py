"""The demo's command."""
COMMANDS = []
