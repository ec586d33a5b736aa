"""What a ledger says of itself: how it stands beside its anchor, whose state it is, and what its endpoint can take."""

import json
from typing import Any, NamedTuple

from sync_job.ledger.store import Store


class Accounted(NamedTuple):
    """How far a ledger and the codes of who withdrew know of each other.

    The codes with this *digest* have everybody of the lists up to number *last_list*. *whole*: the ledger knows all of
    the codes, but for those that are unnamed.
    """

    digest: str
    last_list: int
    whole: bool


class About(Store):
    """Reads and writes the names and values of one ledger's table `about`."""

    def said(self, key: str) -> str:
        """Return what is kept under a name; "" for nothing."""
        rows = self._rows("SELECT value FROM about WHERE key = ?", key)
        return str(rows[0][0]) if rows else ""

    def _note(self, **values: str) -> None:
        with self._writing():
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values.items())

    def is_anchored(self) -> bool:
        """Return whether an anchor was ever written for it."""
        return bool(self.said("anchored"))

    def note_anchored(self) -> None:
        """Note that there is an anchor; one that is missing later was lost."""
        if not self.is_anchored():
            self._note(anchored="yes")

    def buried(self) -> int:
        """Return how many tombstones there were: fewer beside the keys means that some were lost."""
        return int(self.said("buried") or 0)

    def note_buried(self, count: int) -> None:
        """Note how many tombstones there are."""
        self._note(buried=str(count))

    def accounted(self) -> Accounted | None:
        """Return how far ledger and codes know of each other; none if that is to be found out anew."""
        said = self.said("accounted")
        return Accounted(*json.loads(said)) if said else None

    def note_accounted(self, one: Accounted | None) -> None:
        """Note how far ledger and codes know of each other."""
        if one != self.accounted():
            self._note(accounted=json.dumps(one) if one else "")

    def restored(self) -> str:
        """Return how it was found to be a restored backup: "older" or "shrunken"; "" when it was not.

        "put back": it is one, and no run has looked at it yet.
        """
        return self.said("restored")

    def note_put_back(self) -> None:
        """Note that it comes from a backup, whatever its anchor says: it may lack what was sent and said since."""
        self._note(restored="put back")

    def note_restored(self, how: str, run: int) -> None:
        """Note that it is a restored backup; its next run is numbered after *run*, the last one before it was."""
        self._note(restored=how, last_run=str(run))

    def note_everyone_lingers(self, until: float) -> None:
        """Note that what nobody knows to be on its way may be applied *until* then, in epoch seconds."""
        self._note(lingering_until=str(until))

    def everyone_lingers_until(self) -> float:
        """Return until when what nobody knows to be on its way may be applied, in epoch seconds; 0 for never."""
        return float(self.said("lingering_until") or 0)

    def note_whole(self, words: str) -> None:
        """Note in *words* why it is no longer taken for a restored backup."""
        self._note(restored="", made_whole=words)

    def resolved(self) -> str:
        """Return the digest of the id map by which all withdrawals in the CRM's numbers were resolved; "" for none."""
        return self.said("resolved")

    def note_resolved(self, digest: str) -> None:
        """Note by which id map they were; "" if some were not."""
        self._note(resolved=digest)

    def targets(self) -> list[str]:
        """Return the target, and before it those that it was called when its host had another name."""
        return [*(one["target"] for one in self.moves()), self.said("target")]

    def moves(self) -> list[dict[str, Any]]:
        """Return which targets it was before, the oldest first, each with when, why and by whom that ended."""
        return list(json.loads(self.said("moved") or "[]"))

    def move(self, target: str, *, reason: str, by: str, now: float) -> None:
        """Let it be the state of another target from now on, and keep which one it was."""
        was = {"target": self.said("target"), "at": now, "reason": reason, "by": by}
        self._note(target=target, moved=json.dumps([*self.moves(), was], ensure_ascii=False))

    def given_up(self) -> dict[str, Any]:
        """Return where its people went when it was given up (*to*, *target*) and when (*at*); {} if it was not."""
        return dict(json.loads(self.said("given_up") or "{}"))

    def note_given_up(self, to: str, target: str, now: float) -> None:
        """Note that its people went to the state in the folder *to*: nothing is sent from this one any more."""
        self._note(given_up=json.dumps({"to": to, "target": target, "at": now}, ensure_ascii=False))

    def carried(self) -> dict[str, Any]:
        """Return from which state it was made, and how; {} if it was not made from one."""
        return dict(json.loads(self.said("carried") or "{}"))

    def is_carrying(self) -> bool:
        """Return whether the command that makes it from another state has not ended yet."""
        return bool(self.said("carrying"))

    def end_carrying(self) -> None:
        """Note that it has."""
        self._note(carrying="")

    def learn(self, limit: float, rows_per_s: float = 0.0) -> None:
        """Keep how many requests in flight did well at this target in the end, and how many rows a second that was."""
        self._note(limit=str(limit), **({"rows_per_s": str(rows_per_s)} if rows_per_s else {}))

    def learned(self) -> float:
        """Return the limit that `learn` kept; 0 where nothing is known."""
        return float(self.said("limit") or 0)

    def learned_rate(self) -> float:
        """Return how many rows a second were delivered lately; 0 where nothing is known."""
        return float(self.said("rows_per_s") or 0)
