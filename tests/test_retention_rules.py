"""Which units stay: plain values, and any values."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from hubsync.config.model import KeepRules, LocalRetention
from hubsync.retention import UnitFact, decide, has_keep_rule, newest_first

GB = 10**9


def units(*steps: int, size: int = GB) -> dict[str, UnitFact]:
    return {f"checkpoint-{step}": UnitFact(written_at=step, size=size) for step in steps}


def kept(facts: Mapping[str, UnitFact], rules: KeepRules, best: tuple[str, ...] = (), free: int = 0) -> dict[str, str]:
    return {one.unit: one.reason for one in decide(facts, best, rules, free) if one.kept}


def test_any_rule_keeps_a_unit() -> None:
    """Rules compose: what one of them keeps stays, each with the rule that says so."""
    found = kept(
        units(500, 1000, 1500, 2000, 2500, 3100, 3200),
        KeepRules(keep_last=2, keep_best=1, keep_every=1000),
        best=("checkpoint-1500", "checkpoint-500"),
    )

    assert {
        "checkpoint-3200": "it is the newest complete unit",
        "checkpoint-3100": "keep_last = 2",
        "checkpoint-1500": "keep_best = 1",
        "checkpoint-2000": "keep_every = 1000",
        "checkpoint-1000": "keep_every = 1000",
    } == found


def test_the_reason_of_what_goes_names_the_rules() -> None:
    """Who reads that a unit goes reads which rules do not keep it."""
    gone = [one for one in decide(units(1, 2), (), KeepRules(keep_last=1, keep_every=10)) if not one.kept]

    assert [("checkpoint-1", "no rule keeps it: keep_last = 1, keep_every = 10")] == [(g.unit, g.reason) for g in gone]


def test_the_oldest_go_until_enough_is_free() -> None:
    """``min_free`` alone lets go no more than it must."""
    rules = LocalRetention(min_free_bytes=5 * GB)

    assert {"checkpoint-3", "checkpoint-4", "checkpoint-5"} == kept(units(1, 2, 3, 4, 5), rules, free=3 * GB).keys()
    assert {"checkpoint-5"} == kept(units(1, 2, 3, 4, 5), rules, free=0).keys()
    assert 5 == len(kept(units(1, 2, 3, 4, 5), rules, free=5 * GB))


def test_what_a_rule_keeps_stays_though_space_is_short() -> None:
    """A keep rule is a promise; ``min_free`` only decides when it is looked at."""
    rules = LocalRetention(keep_last=2, min_free_bytes=100 * GB)

    assert {"checkpoint-2", "checkpoint-3"} == kept(units(1, 2, 3), rules).keys()


def test_a_rewound_run_keeps_both_of_its_newest_units() -> None:
    """The highest step and the unit that was written last may be two."""
    facts = {"checkpoint-1000": UnitFact(10), "checkpoint-500": UnitFact(20), "checkpoint-200": UnitFact(1)}

    assert {"checkpoint-1000", "checkpoint-500"} == kept(facts, KeepRules(keep_last=1)).keys()


def test_a_unit_without_a_step_is_no_multiple() -> None:
    """``keep_every`` says nothing of names that end in no number."""
    facts = {"checkpoint-7": UnitFact(30), "final": UnitFact(20), "checkpoint-0": UnitFact(1)}

    assert {"checkpoint-7", "checkpoint-0"} == kept(facts, KeepRules(keep_every=1000)).keys()


NAMES = st.from_regex(r"(run-[ab]/)?(checkpoint|step)-[0-9]{1,4}", fullmatch=True) | st.sampled_from(["final", "best"])
FACTS = st.dictionaries(NAMES, st.builds(UnitFact, st.integers(0, 50), st.integers(0, 100)), max_size=12)
COUNTS = st.none() | st.integers(1, 5)
RULES = st.builds(LocalRetention, keep_last=COUNTS, keep_best=COUNTS, keep_every=COUNTS, min_free_bytes=st.integers(1, 300))


@given(FACTS, st.lists(NAMES, unique=True), RULES, st.integers(0, 300))
def test_any_rules_on_any_units(facts: dict[str, UnitFact], best: list[str], rules: LocalRetention, free: int) -> None:
    """Each unit gets one verdict with a reason, the newest stays, and each rule keeps what it promises."""
    verdicts = decide(facts, best, rules, free)
    stays = {one.unit for one in verdicts if one.kept}
    order = newest_first(facts)
    known_best = [unit for unit in best if unit in facts]

    assert order == [one.unit for one in verdicts]
    assert all(one.reason for one in verdicts)
    assert set(order[: rules.keep_last or 1]) | set(known_best[: rules.keep_best or 0]) <= stays
    if not has_keep_rule(rules):
        freed = free + sum(facts[unit].size for unit in facts if unit not in stays)
        assert freed >= rules.min_free_bytes or len(stays) <= 2


@given(FACTS, st.lists(NAMES, unique=True), RULES.filter(lambda rules: rules.keep_last and rules.keep_best))
def test_a_rule_less_keeps_no_more(facts: dict[str, UnitFact], best: list[str], rules: LocalRetention) -> None:
    """To leave out a rule never keeps a unit that goes with it."""
    fewer = rules.model_copy(update={"keep_last": None})

    assert kept(facts, fewer, tuple(best)).keys() <= kept(facts, rules, tuple(best)).keys()
