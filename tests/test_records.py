"""Records travel through JSON unchanged, and what cannot be read is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hub_fusion.errors import RecordError
from hub_fusion.records import (
    Attempt,
    Contribution,
    Credit,
    Estimate,
    Index,
    IndexEntry,
    Refusal,
    Score,
    Scores,
    Told,
    attempt_id,
    now,
    parse_lines,
    tell_refusals,
    write_schemas,
)

SHA = "0123456789abcdef0123456789abcdef01234567"
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
finite = st.floats(allow_nan=False, allow_infinity=False)
contributions = st.builds(
    Contribution,
    repo=st.text(),
    sha=st.just(SHA),
    relation=st.sampled_from(["finetune", "adapter"]),
    author=st.text(),
    license=st.none() | st.text(),
    datasets=st.lists(st.text(), max_size=3).map(tuple),
    weight=st.none() | finite,
    norm=st.none() | finite,
    generation=st.none() | st.integers(0, 10**6),
    created_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(contributions)
@settings(max_examples=100, deadline=None)
def test_a_record_reads_back_as_itself(contribution: Contribution) -> None:
    """The same record gives the same text, on one line where it is a JSON line."""
    text = contribution.to_json()
    assert Contribution.from_json(text) == contribution
    assert Contribution.from_json(text.encode()).to_json() == text
    assert text.count("\n") == 0
    assert Credit.from_json(text) == contribution.to_credit()


def test_unknown_fields_are_ignored_and_newer_schemas_refused() -> None:
    index = {"base": "a/b", "updated_at": "2026-01-01T00:00:00Z", "news": [1]}
    assert Index.from_json(json.dumps(index)).base == "a/b"
    for version in (2, "2", 99):
        with pytest.raises(RecordError, match=r"index.json has schema_version .*, newer than 1: update hub_fusion"):
            Index.from_json(json.dumps(index | {"schema_version": version}), source="fusion/index.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number: str) -> None:
    """They are not JSON, and a browser's parser would reject the whole file."""
    with pytest.raises(RecordError):
        Estimate.from_json(f'{{"mean": {number}, "low": 0, "high": 1}}')
    with pytest.raises(ValidationError):
        Estimate(mean=float(number.replace("Infinity", "inf")), low=0, high=1)
    attempt = Attempt(id="0" * 64, status="rejected", base="a/b", created_at=WHEN, hardware={"x": float("nan")})
    assert json.loads(attempt.to_json())["hardware"] == {"x": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.json is not JSON"),
        ("{", "x.json is not JSON"),
        ("[]", "x.json is not a Credit"),
        ("5", "x.json is not a Credit"),
        (b"\xff\xfe", "x.json is not JSON"),
        ("[" * 100_000, "x.json is not JSON"),
        ('{"repo": "a/b"}', "x.json is not a Credit: sha: Field required; relation: Field required; author"),
        ('{"repo": "a/b", "sha": "main", "relation": "finetune", "author": "a"}', "sha: String should match"),
        (f'{{"repo": "a/b", "sha": "{SHA}", "relation": "fork", "author": "a"}}', "relation: Input should be"),
    ],
)
def test_what_is_not_a_record_is_named(text: str | bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Credit.from_json(text, source="x.json")


def test_a_lone_surrogate_does_not_stop_a_record_from_being_written() -> None:
    """A stranger's card can hold one as an escape in JSON; UTF-8 cannot carry it."""
    refusal = Refusal(repo="a\ud800b", sha="", author="a", stage="filter", code="x", reason="", fix="")
    assert '"a?b"' in refusal.to_json().encode().decode()
    entry = IndexEntry(id="x", status="rejected", created_at=WHEN, authors=("\udfff",))
    Index(base="a/b", updated_at=WHEN, entries=(entry,)).to_json().encode()


def test_moments_have_a_time_zone() -> None:
    """A time without one means UTC; otherwise the two kinds could not be compared."""
    naive = Index(base="a/b", updated_at=datetime(2026, 1, 2, 3, 4, 5))
    assert naive.updated_at == WHEN
    assert now().utcoffset() is not None
    assert now().microsecond == 0


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Estimate(mean=0, low=0, high=0).mean = 1  # type: ignore[misc]


def test_the_index_writes_one_entry_on_a_line() -> None:
    score = Score(mean=0.5, low=0.4, high=0.6, role="gate", protocol="probe", examples=10)
    entries = tuple(IndexEntry(id=str(n), status="rejected", created_at=WHEN, scores=(score,)) for n in range(3))
    index = Index(base="a/b", updated_at=WHEN, entries=entries)
    assert Index.from_json(index.to_json()) == index
    assert len(index.to_json().splitlines()) == 5
    assert index.to_json(indent=2) == index.to_json()
    assert IndexEntry.from_json(entries[0].to_json(indent=1)) == entries[0]
    assert Index.from_json(Index(base="a/b", updated_at=WHEN).to_json()).newest is None


def test_the_mean_over_protocols_is_the_mean_of_their_means() -> None:
    means = [
        Score(mean=mean, low=0, high=1, role="gate", protocol=protocol, examples=1)
        for mean, protocol in ((0.6, "probe"), (0.8, "fewshot"))
    ]
    scores = Scores(suite="s", weights_sha256="w", means=tuple(means))
    assert scores.mean("gate") == pytest.approx(0.7)
    assert scores.mean("gate", "probe") == 0.6
    with pytest.raises(RecordError, match=r"no score with role 'report' .* \['gate/probe', 'gate/fewshot'\]"):
        scores.mean("report")


def test_an_entry_names_twenty_authors_at_most() -> None:
    credits = tuple(Credit(repo=f"a{n}/m", sha=SHA, relation="finetune", author=f"a{n:02}") for n in range(50))
    attempt = Attempt(id="0" * 64, status="published", generation=1, base="a/b", created_at=WHEN, contributions=credits)
    entry = attempt.to_entry(SHA)
    assert (entry.contributions, len(entry.authors), entry.tag, entry.revision) == (50, 20, "gen-1", SHA)


def test_attempt_ids_do_not_depend_on_the_order_of_contributions() -> None:
    assert attempt_id("p", "r", "s", ["a", "b"]) == attempt_id("p", "r", "s", iter(["b", "a"]))
    others = [attempt_id("q", "r", "s", "ab"), attempt_id("p", "", "rs", "ab"), attempt_id("p", "r", "s", "a")]
    assert len({attempt_id("p", "r", "s", "ab"), *others}) == 4


def test_a_contribution_refuses_itself_by_name() -> None:
    c = Contribution(repo="a/b", sha=SHA, relation="finetune", author="a", scale=0.5)
    refusal = c.refuse("screen", "copy", "Its weights are known.", "Train.")
    assert (refusal.repo, refusal.sha, refusal.author, refusal.kind) == ("a/b", SHA, "a", "refusal")
    assert (c.key, c.clipped) == (f"a/b@{SHA}", True)


def test_parse_lines_sorts_contributions_from_refusals() -> None:
    c = Contribution(repo="a/b", sha=SHA, relation="finetune", author="a")
    refusal = c.refuse("filter", "private", "It is private.", "Make it public.")
    assert parse_lines([c.to_json(), "\n", refusal.to_json() + "\n"]) == ([c], [refusal])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of f.jsonl is not a JSON object"),
        ("[]", "line 2 of f.jsonl is not a JSON object"),
        ("[" * 100_000, "line 2 of f.jsonl is not a JSON object"),
        ("{}", "line 2 of f.jsonl has kind None; expected 'contribution' or 'refusal'"),
        ('{"kind": ["x"]}', "line 2 of f.jsonl has kind"),
        ('{"kind": "refusal"}', "line 2 of f.jsonl is not a Refusal: repo: Field required"),
        ('{"kind": "contribution", "repo": 5}', "line 2 of f.jsonl is not a Contribution"),
    ],
)
def test_parse_lines_names_the_line(line: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_lines(["", line], source="f.jsonl")


def test_the_schemas_are_up_to_date(tmp_path: Path) -> None:
    """Run ``python -m hub_fusion.records`` after a change of the records."""
    write_schemas(tmp_path)
    there = Path(__file__).parents[1] / "hub_fusion" / "schemas"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {p.name: p.read_text() for p in there.glob("*.json")}


def refusals(author: str, number: int, *, stage: str = "filter", reason: str = "It is private.") -> list[Refusal]:
    """So many repositories of one account that were refused."""
    return [
        Refusal.model_validate({"repo": f"{author}/m{n}", "sha": SHA, "author": author, "stage": stage,
                                "code": "private", "reason": reason, "fix": "Make it public."})
        for n in range(number)
    ]  # fmt: skip


def test_of_thousands_of_refusals_all_are_counted_and_all_are_named() -> None:
    """Ten thousand finetunes of a popular base: those in full and the names together hold everybody once."""
    many = [refusal for account in range(2500) for refusal in refusals(f"account{account}", 4)]
    told = tell_refusals(many)
    assert told.refused == {"private": 10_000}
    named = [*(r.repo for r in told.refusals), *told.names["private"]]
    assert sorted(named) == sorted(r.repo for r in many)
    assert len(told.refusals) == 200
    assert tell_refusals([*many, *many]) == told
    assert tell_refusals(many[:100]) == Told(tuple(many[:100]), {"private": 100}, {})


def test_nobody_crowds_others_out_of_what_is_told_in_full() -> None:
    """An account with a thousand repositories comes first in the listing, and leaves room for everybody else."""
    few = [refusal for account in range(50) for refusal in refusals(f"b{account}", 1)]
    told = tell_refusals([*refusals("a", 1000), *few]).refusals
    assert set(few) <= set(told)


def test_what_only_the_watcher_knows_is_told_first() -> None:
    """A card's fault can be asked for again by anybody; a withdrawal and what tensors told cannot."""
    tensors, withdrawn = refusals("z", 3, stage="screen"), refusals("y", 1, stage="fuse")
    told = tell_refusals([*refusals("a", 500), *tensors, *withdrawn])
    assert {*tensors, *withdrawn} <= set(told.refusals)
    assert len(tell_refusals(refusals("y", 300, stage="fuse")).refusals) == 300  # what later looks depend on


@settings(max_examples=10)
@given(reason=st.text(max_size=3000))
def test_what_is_told_of_refusals_has_a_bound_in_bytes(reason: str) -> None:
    """Reasons hold what strangers wrote into cards, names are long; past the bound there are counts alone."""
    told = tell_refusals(refusals("a" * 96, 300, reason=reason))
    assert sum(len(r.to_json().encode()) for r in told.refusals) <= 150_000
    assert all(len(r.reason) <= 500 for r in told.refusals)
    assert len(told.refusals) + len(told.names["private"]) == 300


def test_names_that_do_not_fit_are_counted() -> None:
    """Only a base that refuses far more than ten thousand gets there; the newest of one account are left out first."""
    told = tell_refusals(refusals("a" * 96, 5000))
    assert len(json.dumps(told.names, indent=1)) <= 310_000
    assert told.refused == {"private": 5000} and 2000 < len(told.names["private"]) < 4800


def test_old_records_count_the_refusals_that_they_hold() -> None:
    """Before there was a bound they held all, and no counts."""
    old = Attempt(id="0" * 64, status="rejected", base="a/b", created_at=now(), refusals=tuple(refusals("a", 3)))
    assert (old.refused_by_code, old.to_entry().refusals) == ({"private": 3}, 3)
    new = old.model_copy(update={"refused": {"private": 9000}})
    assert (new.refused_by_code, new.to_entry().refusals) == ({"private": 9000}, 9000)
