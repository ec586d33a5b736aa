"""The headline: a state that follows from the exit code, a sentence with its numbers, commands that exist."""

import random
import re
import shlex
from typing import Any

import pytest
import typer.main

from sync_job.cli.app import app
from sync_job.errors import Exit
from sync_job.report import headline
from sync_job.report.words import LANGUAGES, Language, Words
from tests.random_summaries import START, night, summary

EN, RU = Words("en"), Words("ru")
ACT = {Exit.CONFIG, Exit.EXPORT, Exit.STATE, Exit.ENDPOINT, Exit.OBLIGATION, Exit.BUG}


def ended(**counts: int) -> dict[str, Any]:
    """Return outcomes that add up, and what was planned."""
    outcomes = {"delivered": 0, "refused": 0, "exhausted": 0, "deferred": 0} | counts
    return {"outcomes": outcomes, "planned": sum(outcomes.values())}


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_run_has_a_headline(seed: int, language: Language) -> None:
    """Whatever a run left, there is one sentence, and steps wherever the state is not fine."""
    rng = random.Random(seed)
    earlier = [summary(rng, number) for number in range(rng.randint(0, 5))]
    found = summary(rng, 9)
    said = headline.read(found, earlier, Words(language))
    assert said.sentence.endswith(".")
    assert said.sentence[0] == said.sentence[0].upper()
    assert "{" not in said.sentence
    assert said.steps or said.state == "fine"
    if found["planned"]:
        assert Words(language).number(found["planned"]) in said.sentence
        for count in found["outcomes"].values():
            assert Words(language).number(count) in said.sentence or not count


COMMANDS = typer.main.get_command(app)


def _command(said: str) -> list[str]:
    """Return the names of a command that a step shows, down to the last that the command line knows."""
    words = shlex.split(said)
    assert words.pop(0) == "consent-sync"
    one: Any = COMMANDS
    names = []
    while words and words[0] in getattr(one, "commands", {}):
        names.append(words.pop(0))
        one = one.commands[names[-1]]
    known = {option for parameter in one.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert names, said
    assert not getattr(one, "commands", None), said
    for word in words:
        assert not word.startswith("--") or word in known, f"{said}: no option {word}"
    return names


@pytest.mark.parametrize("seed", range(60))
def test_commands_are_those_of_the_command_line(seed: int) -> None:
    """What is to be typed next is a command with options that it has, and names the configuration."""
    found = summary(random.Random(seed))
    for step in headline.read(found, [], EN, "my configs/nightly.toml").steps:
        if step.command and not step.command.startswith("not_found_codes"):
            _command(step.command)
            assert step.command.endswith("--config 'my configs/nightly.toml'")


@pytest.mark.parametrize("code", Exit)
def test_the_state_follows_from_the_exit_code(code: Exit) -> None:
    """Fine is 0 alone; a person has to act where nothing gets better by itself."""
    state = headline.state(night(exit=int(code)))
    assert state == ("fine" if code is Exit.OK else "act" if code in ACT else "look")


def test_the_sentence_is_one_that_a_manager_understands() -> None:
    """What was delivered, what the platform said no to, what is not sent yet, and the last opt-out."""
    owed = night()["withdrawals"] | {"last_acknowledged": START + 86400 * 7 + 191}
    found = night(exit=1, **ended(delivered=1204, refused=3, deferred=2), withdrawals=owed)
    found |= {"started": START + 86400 * 7, "ended": START + 86400 * 7 + 600}
    assert headline.sentence(found, [], EN) == (
        "1,204 of 1,209 changes delivered; the platform said no to 3; 2 not sent yet; "
        f"last opt-out acknowledged at {EN.clock(START + 191)}."
    )
    assert headline.sentence(found, [], RU).replace("\N{NO-BREAK SPACE}", " ") == (
        "Доставлено 1 204 из 1 209 изменений; платформа отклонила 3; ещё не отправлено: 2; "
        f"последний отзыв согласия подтверждён в {EN.clock(START + 191)}."
    )


def test_a_green_run_that_did_nothing_says_so_and_since_when() -> None:
    """Nothing had changed, and the export is the same since the first night that read it."""
    idle = {**ended(), "decided": night()["decided"] | {"planned": 0, "unchanged": 1000}}
    nights = [
        night(export=night()["export"] | {"digest": digest}, started=START + 86400 * number)
        for number, digest in enumerate(("d7", "d6", "d7", "d7"))
    ]
    nights.insert(3, night(kind="drain", export=None, started=START + 86400 * 2.5))
    said = headline.sentence(night(**idle), nights, EN)
    assert said.startswith("Nothing was sent, because nothing had changed; the export has been the same since ")
    assert EN.time(START + 86400 * 2) in said
    assert "same" not in headline.sentence(night(**idle), nights[:2], EN)


def test_what_is_held_is_approved_by_the_exact_command() -> None:
    """Run and number are those of the summary."""
    held = night()["decided"] | {"held": 149, "unchanged": 848}
    found = night(exit=6, run="0012-20261124T021500Z", decided=held, approvable={"grants": 149, "clients": 0})
    said = headline.read(found, [], EN, "nightly.toml")
    assert "grants of 149 clients wait for approval" in said.sentence
    approve = 'consent-sync approve 12 --grants 149 --reason "…" --by "…" --config nightly.toml'
    assert approve in [step.command for step in said.steps]


def test_what_nobody_can_approve_does_not_wait_for_approval() -> None:
    """What is older than a no is held, and the next step says what allows it; so is what an old export says."""
    held = night()["decided"] | {"held": 1, "unchanged": 996}
    for doubts, step in (([], "do_held"), ([{"doubt": "too old", "why": "it is 40 h old"}], "do_doubt_too_old")):
        found = night(exit=6, **ended(), decided=held, doubts=doubts, guards=[])
        said = headline.read(found, [], EN)
        assert "1 client has something held" in said.sentence
        assert "approval" not in said.sentence
        assert [one.text for one in said.steps] == [EN(step)]


@pytest.mark.parametrize(
    ("code", "first"),
    [
        (Exit.EXPORT, "consent-sync check"),
        (Exit.ENDPOINT, "consent-sync doctor"),
        (Exit.STATE, "consent-sync doctor"),
        (Exit.BUSY, "consent-sync status"),
        (Exit.CONFIG, "consent-sync run"),
        (Exit.BUG, "consent-sync run"),
    ],
)
def test_the_first_step_looks_at_the_cause(code: Exit, first: str) -> None:
    """Each code that counts do not explain begins with the command that shows why."""
    said = headline.read(night(exit=int(code), export=None, decided=None, **ended()), [], EN)
    assert said.steps[0].command.startswith(first)


def test_opt_outs_past_their_limit_come_with_how_to_see_and_send_them() -> None:
    """Exit 7: first look, then drain."""
    owed = night()["withdrawals"] | {"open": 4, "past_limit": 2, "past_target": 4}
    said = headline.read(night(exit=7, withdrawals=owed), [], EN)
    assert "2 opt-outs are past their limit" in said.sentence
    assert [re.sub(" --config.*", "", step.command) for step in said.steps] == [
        "consent-sync withdrawals status",
        "consent-sync drain",
    ]


@pytest.mark.parametrize("message", ["Клиент не найден", "client not found"])
@pytest.mark.parametrize(("codes", "hinted"), [([], True), ([8], False)])
def test_a_message_that_reads_like_not_found_is_hinted_at(message: str, codes: list[int], hinted: bool) -> None:
    """Only where the settings name no such code: then the line for the configuration is the step."""
    one = {"outcome": "refused", "status": 200, "code": 8, "message": message, "count": 2, "since": "new"}
    settings = {"endpoint": {"not_found_codes": codes}}
    found = night(exit=1, **ended(delivered=1, refused=2), codes=[one], settings=settings)
    assert ("not_found_codes = [8]" in [step.command for step in headline.read(found, [], EN).steps]) == hinted


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("drain", "3 of 3 denials that we owed delivered."),
        ("opt-out", "3 of 3 opt-outs delivered."),
        ("backfill", "3 of 3 changes sent again and delivered."),
        ("undo", "3 of 3 changes taken back."),
        ("apply", "3 of 3 changes delivered."),
    ],
)
def test_each_kind_of_run_says_what_it_did(kind: str, said: str) -> None:
    """A drain speaks of denials, an undo of what it took back."""
    export = {} if kind in ("backfill", "undo") else {"export": None, "decided": None}
    assert headline.sentence(night(kind=kind, **export), [], EN) == said


def test_a_first_state_says_what_the_first_run_will_send() -> None:
    """`init` sends nothing itself."""
    made = {"clients": 5009, "state": "state", "denials_due": 4480, "grants_due": 0}
    said = headline.sentence(night(kind="init", made=made, **ended()), [], EN)
    assert said.startswith("The first state was made of 5,009 clients; the next run sends 4,480 of them a denial")
