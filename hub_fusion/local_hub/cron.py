"""When a schedule is due: five-field cron expressions and their @names, in UTC.

Covered: ``*``, numbers, names of months and weekdays, ranges, steps, lists; day of month and day of week are
alternatives where both are given. Not covered: seconds, ``L``, ``W``, ``#``, ``@reboot``.
"""

import re
from datetime import UTC, datetime, timedelta

NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d{1,4}))?", re.ASCII)
HORIZON_DAYS = 9 * 366  # a 29 February may be eight years away


def next_run(schedule: str, after_ms: int) -> int:
    """The first minute after a time at which the schedule is due, in milliseconds; ValueError if it is no schedule.

    >>> next_run("@hourly", 0)
    3600000
    """
    fields = NAMED.get(schedule, schedule).split()
    if len(fields) != len(BOUNDS):
        raise ValueError(f"{schedule!r} is neither one of {', '.join(NAMED)} nor five fields of cron.")
    minutes, hours, days, months, weekdays = (
        _values(field, low, high, names)
        for field, (low, high), names in zip(fields, BOUNDS, ([], [], [], MONTHS, WEEKDAYS), strict=True)
    )
    weekdays = {day % 7 for day in weekdays}
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    first = datetime.fromtimestamp(after_ms // 60_000 * 60, UTC) + timedelta(minutes=1)
    for offset in range(HORIZON_DAYS):
        day = first.replace(hour=0, minute=0) + timedelta(days=offset)
        matches = (day.day in days, day.isoweekday() % 7 in weekdays)
        if day.month not in months or not (any(matches) if either else all(matches)):
            continue
        for hour in sorted(hours):
            for minute in sorted(minutes):
                due = day.replace(hour=hour, minute=minute)
                if due >= first:
                    return int(due.timestamp()) * 1000
    raise ValueError(f"{schedule!r} is never due.")


def _values(field: str, low: int, high: int, names: list[str]) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no field of cron.")
        begin, end, step = match.groups()
        start = low if begin is None else _number(begin, low, names)
        stop = high if begin is None or (step and end is None) else _number(end or begin, low, names)
        if not low <= start <= stop <= high or step == "0":
            raise ValueError(f"{part!r} is not within {low}-{high}.")
        found.update(range(start, stop + 1, int(step or 1)))
    return found


def _number(word: str, low: int, names: list[str]) -> int:
    if word.isdigit():
        return int(word[:9])
    if word.lower() in names:
        return names.index(word.lower()) + low
    raise ValueError(f"{word!r} is no number{' or name' if names else ''} here.")
