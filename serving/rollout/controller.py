"""Gathers, decides, applies, over and over; people ask in between. Each change is kept before what follows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import httpx
import structlog

from fraudkit.errors import FraudError, InvalidInput, TemporaryError
from fraudkit.events import CONTENT_TYPE, EventData, ModelPromoted, ModelRolledBack, encode
from fraudkit.policy.rollout import Check, Labelled, RolloutRules, checks, label_checks
from fraudkit.settings import MODEL_NAME, EventSettings
from serving.rollout import engine
from serving.rollout.engine import BY_HAND, Asked
from serving.rollout.evidence import NO_LABELS, Evidence, counted
from serving.rollout.state import Counts, Pending, Rollout, State, Status, wanted
from serving.rollout.store import Store, Superseded
from serving.rollout.targets import Observed, Target, Wanted
from serving.rollout.template import digest
from serving.rollout.troubles import Troubles

log = structlog.get_logger()

SOURCE: Final = "/fraud-platform/rollout"
COUNTS_SECONDS: Final = 10.0
"""How often counts alone are worth a write: whoever comes next reads the servers' counters again."""
_JUDGED: Final = frozenset({Status.RUNNING, Status.PAUSED})


class Controller:
    """The controller. `tick` is called by one thread; what people ask may come from others.

    Args:
        store: Keeps its state.
        target: Where models serve.
        evidence: What canaries are judged by.
        rules: How.
        events: Who is told of promotions and rollbacks.
        label_seconds: How often labels and scores are looked at.
        clock: The time [s, UTC].
        template: Reads what services are made from, canonical; None where the target needs none.
    """

    def __init__(
        self,
        store: Store,
        target: Target,
        evidence: Evidence,
        rules: RolloutRules,
        events: EventSettings,
        label_seconds: float,
        clock: Callable[[], float],
        template: Callable[[], str] | None = None,
    ) -> None:
        self._store = store
        self._target = target
        self._evidence = evidence
        self._rules = rules
        self._events = events
        self._label_seconds = label_seconds
        self._clock = clock
        self._read_template = template
        self._template = ""
        self._lock = threading.Lock()
        self._loaded: State | None = None
        self._superseded: Superseded | None = None
        self._kept_at = self._reached_at = float("-inf")
        self._troubles = Troubles()
        self._percents = tuple(step.percent for step in rules.steps)
        self._labelled: dict[str, tuple[float, Labelled]] = {}
        self._observed: Observed | None = None

    @property
    def known(self) -> State | None:
        """What is known now; None before the state is loaded."""
        return self._loaded

    @property
    def state(self) -> State:
        """What is known now.

        Raises:
            TemporaryError: The state is not loaded yet.
        """
        if self._loaded is None:
            why = self._troubles.now.get("state", "it was not tried yet")
            raise TemporaryError(f"the state of the roll-outs is not loaded: {why}")
        return self._loaded

    @property
    def goal(self) -> Wanted | None:
        """What is wanted of the target; None before there is a model."""
        return wanted(self.state, self._percents)

    @property
    def rules(self) -> RolloutRules:
        """How a canary is judged."""
        return self._rules

    @property
    def troubles(self) -> Troubles:
        """What does not work at the moment."""
        return self._troubles

    def load(self) -> None:
        """Take the state over; `tick` does that too.

        Raises:
            TemporaryError: It cannot be had now.
            PermanentError: It cannot be read.
        """
        with self._lock, self._troubles.of("state"):
            self._loaded = self._store.load()
        log.info("state loaded", champion=self.state.champion)

    def ask(self, asked: Asked) -> Rollout:
        """Begin a roll-out, from the template of now; the same key again finds the one that it began.

        Raises:
            Busy: It cannot begin now.
            BundleError: There is no such bundle, or it is damaged.
            TemporaryError: Bundles, template or state are away.
        """
        known = self.state.get(asked.key)
        if known:
            return known
        self._evidence.scorer(asked.version)
        asked = replace(asked, template=self._made_from(asked.key))
        with self._lock:
            state, rollout = engine.ask(self.state, asked, self._rules, self._clock())
            self._keep(state)
        log.info("roll-out asked for", key=rollout.key, version=rollout.version, status=str(rollout.status))
        return rollout

    def act(self, name: str, action: str, by: str, reason: str) -> Rollout:
        """Do what a person asks of a roll-out.

        Raises:
            InvalidInput: There is none of that name.
            Busy: It is not in a state for that.
            FraudError: The state could not be kept.
        """
        with self._lock:
            self._keep(engine.act(self.state, name, action, by, reason, self._clock()))
            rollout = self.state.get(name)
        log.info("a person acted", rollout=name, action=action, by=by, reason=reason)
        return rollout  # type: ignore[return-value]  # it was acted on

    def checks(self, rollout: Rollout) -> tuple[Check, ...]:
        """What a canary, or a provisional promotion, is judged by, as last seen; empty where nothing is judged."""
        labelled = self._labelled.get(rollout.id, (0.0, NO_LABELS))[1]
        if rollout.status is Status.PROVISIONAL:
            return label_checks(labelled, self._rules)
        if rollout.status not in _JUDGED or self._observed is None:
            return ()
        return checks(engine.facts_of(rollout, self._observed, labelled), self._rules, self._clock())

    def tick(self) -> None:
        """Do what is to be done now.

        Raises:
            Superseded: Another controller is at work; this one must end.
            FraudError: Something was away, or a person has to mend it; the next tick tries again.
        """
        self._look_around()
        self._hold()
        self._deliver()
        self._renew()
        goal = self.goal
        if goal is not None:
            self._judge(goal, self._reach(goal))
            self._look_after()

    def _look_around(self) -> None:
        """Read the template; ask now and then whether detector and bundles are there, where nothing else does."""
        known, now = self._loaded, self._clock()
        if self._read_template:
            with suppress(InvalidInput), self._troubles.of("template"):
                self._template = self._read_template()
                failed = known and engine.failed_template(known, self._template)
                if failed:
                    raise InvalidInput(
                        f"the template {digest(self._template)} is not used: it was tried and rolled back "
                        f"({failed.key}: {failed.said[1]}); change it, or ask under a key like {BY_HAND}template"
                    )
        asked = known and (known.provisional or (known.going_on and not known.going_on.same_version))
        if not asked and not 0 <= now - self._reached_at < self._label_seconds:
            self._reached_at = now
            with suppress(FraudError), self._troubles.of("evidence"):
                self._evidence.reach()

    def _hold(self) -> None:
        """Have the state, and make sure that nobody else has it."""
        if self._superseded:
            raise self._superseded
        if self._loaded is None:
            self.load()
        else:
            with self._lock, self._troubles.of("state"):
                self._store.check()

    def _renew(self) -> None:
        """Have a changed template brought to the service by a roll-out of its own."""
        if self._read_template is None:
            return
        template, rules = self._template or self.state.template, self._rules
        self._change(lambda state: engine.renew(state, template, rules, self._clock()))

    def _made_from(self, key: str) -> str:
        """The template for a roll-out that begins now."""
        if self._read_template is None:
            return ""
        state, template = self.state, self._template
        if not template or (engine.failed_template(state, template) and not key.startswith(BY_HAND)):
            template = state.template
        if not template:
            why = self._troubles.now.get("template", "it was not read yet")
            raise TemporaryError(f"there is no template to make a service from: {why}")
        return template

    def _reach(self, goal: Wanted) -> Observed:
        """Have the target go a step towards the goal, unless another hand is at it."""
        mark, going_on = self.state.mark, self.state.going_on
        by_hand = not mark or (going_on and going_on.status not in (Status.RUNNING, Status.STOPPED))
        with self._troubles.of("target"):  # of both: that it can be seen does not mend that it cannot be changed
            observed = self._target.observe(goal, mark)
            if not observed.foreign or by_hand:
                mark = self._target.apply(goal, observed.mark)
                observed = self._target.observe(goal, mark)
        self._troubles.say("foreign", observed.foreign)
        self._observed = observed
        self._change(lambda state: engine.settle(_marked(state, observed), observed, self._clock()))
        return observed

    def _judge(self, goal: Wanted, observed: Observed) -> None:
        rollout = self.state.going_on
        if rollout is None or rollout.status not in _JUDGED or self.goal != goal:
            return
        if rollout.settled:
            self._count(rollout, self._counted(rollout.counts, goal))
            rollout = self.state.going_on or rollout
        counts, labelled, all_known = self._heard(rollout)
        self._count(rollout, counts)

        def change(state: State) -> State:
            after, verdict = engine.judge(state, observed, labelled, self._rules, self._clock())
            return after if all_known or verdict is None or not verdict.passed else state

        self._change(change)

    def _look_after(self) -> None:
        rollout = self.state.provisional
        if rollout is None or self.state.going_on:
            return
        with self._troubles.of("evidence"):
            labelled = self._labels(rollout)
        self._change(lambda state: engine.judge_promotion(state, labelled, self._rules, self._clock())[0])

    def _counted(self, counts: Counts, goal: Wanted) -> Counts:
        with self._troubles.of("target"):
            servers, fallbacks = self._target.servers(goal), self._target.fallbacks()
        return counted(counts, servers, fallbacks)

    def _heard(self, rollout: Rollout) -> tuple[Counts, Labelled, bool]:
        """What scores and labels say, and whether that is all: without, a canary does not go on, but may go back.

        Of a version beside itself they say nothing, and are not asked.
        """
        if rollout.same_version:
            return rollout.counts, NO_LABELS, True
        try:
            with self._troubles.of("evidence"):
                return self._compared(rollout), self._labels(rollout), True
        except FraudError:
            return rollout.counts, self._labelled.get(rollout.id, (0.0, NO_LABELS))[1], False

    def _compared(self, rollout: Rollout) -> Counts:
        counts, now = rollout.counts, self._clock()
        due = now - (counts.skew_until or rollout.asked) >= self._label_seconds
        if rollout.champion is None or not rollout.settled or not due:
            return counts
        return self._evidence.compared(counts, rollout.champion, rollout.version, rollout.asked, now)

    def _count(self, rollout: Rollout, counts: Counts) -> None:
        def change(state: State) -> State:
            same = state.get(rollout.id)
            if same is None or (same.step, same.status) != (rollout.step, rollout.status):
                return state  # a person was quicker
            return state.with_(same.model_copy(update={"counts": counts}))

        self._change(change, lazily=True)

    def _labels(self, rollout: Rollout) -> Labelled:
        """What labels say of a challenger beside who was champion; looked at now and then."""
        if rollout.champion is None:
            return NO_LABELS
        looked, labelled = self._labelled.get(rollout.id, (float("-inf"), NO_LABELS))
        now = self._clock()
        if now - looked < self._label_seconds:
            return labelled
        labelled = self._evidence.labelled(rollout.champion, rollout.version, rollout.asked)
        self._labelled = {rollout.id: (now, labelled)}
        return labelled

    def _change(self, transition: Callable[[State], State], lazily: bool = False) -> None:
        with self._lock:
            self._keep(transition(self.state), lazily)

    def _keep(self, state: State, lazily: bool = False) -> None:
        """Keep a state, with the events that its news are told by; the lock is held. `lazily`: at times only."""
        former = self.state
        if state == former:
            return
        told = [one for event in news(former, state) if (one := self._pending(event))]
        if told:
            state = state.model_copy(update={"outbox": (*state.outbox, *told)})
        if not lazily or time.monotonic() - self._kept_at >= COUNTS_SECONDS:
            self._save(state)
        for rollout in state.rollouts:
            before = former.get(rollout.id)
            if before is None or (before.status, before.step, before.said[1]) != (
                rollout.status,
                rollout.step,
                rollout.said[1],
            ):
                said = {"reason": rollout.said[1], "message": rollout.said[2]}
                log.info("roll-out", key=rollout.key, status=str(rollout.status), step=rollout.step, **said)
        self._loaded = state

    def _save(self, state: State) -> None:
        if self._superseded:
            raise self._superseded
        try:
            with self._troubles.of("state"):
                self._store.save(state)
        except Superseded as error:
            self._superseded = error
            raise
        self._kept_at = time.monotonic()

    def _pending(self, event: EventData) -> Pending | None:
        if not self._events.sinks:
            return None
        moment = datetime.fromtimestamp(self._clock(), UTC)
        return Pending(body=encode(event, SOURCE, moment), sinks=self._events.sinks)

    def _deliver(self) -> None:
        """Post events that are due, the oldest first; the next ones wait for those before them, sink by sink.

        A sink that is listed no longer gets nothing.
        """
        blocked: dict[str, str] = {}
        for pending in self.state.outbox:
            left = []
            for sink in pending.sinks:
                if sink in self._events.sinks and sink not in blocked:
                    blocked |= self._post(sink, pending.body)
                if sink in blocked:
                    left.append(sink)
            if len(left) < len(pending.sinks):
                self._change(partial(_delivered, pending=pending, left=tuple(left)))
        self._troubles.say("sinks", "; ".join(blocked.values()))

    def _post(self, sink: str, body: str) -> dict[str, str]:
        """Post an event; why a sink did not take it, by its name."""
        headers = {"content-type": CONTENT_TYPE}
        try:
            answer = httpx.post(
                sink, content=body.encode(), headers=headers, timeout=self._events.timeout_seconds, trust_env=False
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return {sink: f"an event waits for {sink}: {error or type(error).__name__}"}
        return {} if answer.is_success else {sink: f"an event waits for {sink}, which says {answer.status_code}"}


def news(before: State, after: State) -> list[EventData]:
    """What the world is to be told of the step from one state to the next; a template is nobody else's matter."""
    told: list[EventData] = []
    for rollout in after.rollouts:
        earlier = before.get(rollout.id)
        was = earlier.status if earlier else None
        if rollout.status is was or rollout.same_version:
            continue
        by = rollout.hands[-1].by if rollout.hands else SOURCE
        if rollout.status in (Status.PROVISIONAL, Status.CONFIRMED) and (was is Status.PROMOTING):
            told.append(ModelPromoted(model=MODEL_NAME, version=rollout.version, key=rollout.key, by=by))
        elif rollout.status in (Status.ROLLED_BACK, Status.REVERSED) and rollout.champion:
            reason = rollout.said[2] or rollout.said[1] or "rolled back"
            told.append(
                ModelRolledBack(
                    model=MODEL_NAME,
                    version=rollout.version,
                    champion=rollout.champion,
                    key=rollout.key,
                    reason=reason[:1_000],
                    by=by,
                )
            )
            if rollout.status is Status.REVERSED:
                key = f"{rollout.key}-reversed"
                told.append(ModelPromoted(model=MODEL_NAME, version=rollout.champion, key=key, by=by))
    return told


class Loop:
    """Ticks in a thread of its own, until stopped.

    Args:
        controller: Whose.
        poll_seconds: Between two ticks.
        failed: Called when something happened that no waiting mends.
    """

    def __init__(self, controller: Controller, poll_seconds: float, failed: Callable[[], None]) -> None:
        self._controller = controller
        self._poll_seconds = poll_seconds
        self._failed = failed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Come to an end, within `seconds` if nothing hangs."""
        self._stopping.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._tick()
                self._stopping.wait(self._poll_seconds)
        except Exception:
            log.exception("the controller has failed")
            self._failed()

    def _tick(self) -> None:
        try:
            self._controller.tick()
        except Superseded:
            raise
        except FraudError:
            # It is said by the controller's troubles. What a person has to mend is tried again too: the service
            # goes on meanwhile as it is.
            return


def _marked(state: State, observed: Observed) -> State:
    return state if observed.foreign else state.model_copy(update={"mark": observed.mark})


def _delivered(state: State, pending: Pending, left: tuple[str, ...]) -> State:
    kept = (one if one.body != pending.body else one.model_copy(update={"sinks": left}) for one in state.outbox)
    return state.model_copy(update={"outbox": tuple(one for one in kept if one.sinks)})
