"""Gathers, decides, applies, over and over; people ask in between. Each change is kept before what follows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import httpx
import structlog

from fraudkit.errors import FraudError
from fraudkit.events import CONTENT_TYPE, EventData, ModelPromoted, ModelRolledBack, encode
from fraudkit.policy.rollout import Labelled, RolloutRules
from fraudkit.settings import MODEL_NAME, EventSettings
from serving.rollout import engine
from serving.rollout.engine import Asked
from serving.rollout.evidence import NO_LABELS, Evidence, counted
from serving.rollout.state import Counts, Pending, Rollout, State, Status, wanted
from serving.rollout.store import Store
from serving.rollout.targets import Observed, Target, Wanted

log = structlog.get_logger()

SOURCE: Final = "/fraud-platform/rollout"
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
    ) -> None:
        self._store = store
        self._target = target
        self._evidence = evidence
        self._rules = rules
        self._events = events
        self._label_seconds = label_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._state = store.load()
        self._percents = tuple(step.percent for step in rules.steps)
        self._labelled: dict[str, tuple[float, Labelled]] = {}

    @property
    def state(self) -> State:
        """What is known now."""
        return self._state

    def ask(self, asked: Asked) -> Rollout:
        """Begin a roll-out.

        Raises:
            Busy: It cannot begin now.
            BundleError: There is no such bundle, or it is damaged.
            TemporaryError: The state could not be kept.
        """
        self._evidence.scorer(asked.version)
        with self._lock:
            state, rollout = engine.ask(self._state, asked, self._rules, self._clock())
            self._keep(state)
        log.info("roll-out asked for", key=rollout.key, version=rollout.version, status=str(rollout.status))
        return rollout

    def act(self, name: str, action: str, by: str, reason: str) -> Rollout:
        """Do what a person asks of a roll-out.

        Raises:
            InvalidInput: There is none of that name.
            Busy: It is not in a state for that.
            TemporaryError: The state could not be kept.
        """
        with self._lock:
            self._keep(engine.act(self._state, name, action, by, reason, self._clock()))
            rollout = self._state.get(name)
        log.info("a person acted", rollout=name, action=action, by=by, reason=reason)
        return rollout  # type: ignore[return-value]  # it was acted on

    def tick(self) -> None:
        """Do what is to be done now.

        Raises:
            TemporaryError: Something was away; the next tick tries again.
        """
        goal = wanted(self._state, self._percents)
        if goal is not None:
            self._judge(goal, self._reach(goal))
            self._look_after()
        self._deliver()

    def _reach(self, goal: Wanted) -> Observed:
        """Have the target go a step towards the goal, unless another hand is at it."""
        observed = self._target.observe(goal, self._state.mark)
        going_on = self._state.going_on
        if observed.foreign:
            self._said_foreign(observed.foreign)
        if not observed.foreign or (going_on and going_on.status not in (Status.RUNNING, Status.STOPPED)):
            mark = self._target.apply(goal, observed.mark)
            observed = self._target.observe(goal, mark)
        self._change(lambda state: engine.settle(_marked(state, observed), observed, self._clock()))
        return observed

    def _judge(self, goal: Wanted, observed: Observed) -> None:
        rollout = self._state.going_on
        if rollout is None or rollout.status not in _JUDGED or wanted(self._state, self._percents) != goal:
            return
        if rollout.settled:
            self._count(rollout, self._counts(rollout, goal))
        labelled = self._labels(rollout)
        self._change(lambda state: engine.judge(state, observed, labelled, self._rules, self._clock())[0])

    def _look_after(self) -> None:
        rollout = self._state.provisional
        if rollout is None or self._state.going_on:
            return
        labelled = self._labels(rollout)
        self._change(lambda state: engine.judge_promotion(state, labelled, self._rules, self._clock())[0])

    def _counts(self, rollout: Rollout, goal: Wanted) -> Counts:
        counts = counted(rollout.counts, dict(self._target.servers(goal)), self._target.fallbacks())
        now = self._clock()
        if now - (counts.skew_until or rollout.asked) < self._label_seconds:
            return counts
        return self._evidence.compared(counts, rollout.version, rollout.asked, now)

    def _count(self, rollout: Rollout, counts: Counts) -> None:
        def change(state: State) -> State:
            same = state.get(rollout.id)
            if same is None or (same.step, same.status) != (rollout.step, rollout.status):
                return state  # a person was quicker
            return state.with_(same.model_copy(update={"counts": counts}))

        self._change(change)

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

    def _change(self, transition: Callable[[State], State]) -> None:
        with self._lock:
            self._keep(transition(self._state))

    def _keep(self, state: State) -> None:
        """Keep a state, with the events that its news are told by; the lock is held."""
        if state == self._state:
            return
        told = [one for event in news(self._state, state) if (one := self._pending(event))]
        if told:
            state = state.model_copy(update={"outbox": (*state.outbox, *told)})
        self._store.save(state)
        for rollout in state.rollouts:
            before = self._state.get(rollout.id)
            if before is None or (before.status, before.step, before.said[1]) != (
                rollout.status,
                rollout.step,
                rollout.said[1],
            ):
                said = {"reason": rollout.said[1], "message": rollout.said[2]}
                log.info("roll-out", key=rollout.key, status=str(rollout.status), step=rollout.step, **said)
        self._state = state

    def _pending(self, event: EventData) -> Pending | None:
        if not self._events.sinks:
            return None
        moment = datetime.fromtimestamp(self._clock(), UTC)
        return Pending(body=encode(event, SOURCE, moment), sinks=self._events.sinks)

    def _deliver(self) -> None:
        """Post events that are due, the oldest first; the next ones wait for those before them, sink by sink."""
        blocked: set[str] = set()
        for pending in self._state.outbox:
            left = []
            for sink in pending.sinks:
                if sink in blocked or not self._post(sink, pending.body):
                    blocked.add(sink)
                    left.append(sink)
            if len(left) < len(pending.sinks):
                self._change(partial(_delivered, pending=pending, left=tuple(left)))

    def _post(self, sink: str, body: str) -> bool:
        headers = {"content-type": CONTENT_TYPE}
        try:
            answer = httpx.post(
                sink, content=body.encode(), headers=headers, timeout=self._events.timeout_seconds, trust_env=False
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("an event waits for its sink", sink=sink, reason=str(error))
            return False
        if not answer.is_success:
            log.warning("an event waits for its sink", sink=sink, reason=f"status {answer.status_code}")
        return answer.is_success

    def _said_foreign(self, foreign: str) -> None:
        log.warning("another hand changed what serves", what=foreign)


def news(before: State, after: State) -> list[EventData]:
    """What the world is to be told of the step from one state to the next."""
    told: list[EventData] = []
    for rollout in after.rollouts:
        earlier = before.get(rollout.id)
        was = earlier.status if earlier else None
        if rollout.status is was:
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
        self._trouble = ""

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
        except FraudError as error:
            # What a person has to mend is tried again too: the service goes on meanwhile as it is.
            if str(error) != self._trouble:
                log.warning("the roll-out has to wait", reason=str(error))
            self._trouble = str(error)
        else:
            self._trouble = ""


def _marked(state: State, observed: Observed) -> State:
    return state if observed.foreign else state.model_copy(update={"mark": observed.mark})


def _delivered(state: State, pending: Pending, left: tuple[str, ...]) -> State:
    kept = (one if one.body != pending.body else one.model_copy(update={"sinks": left}) for one in state.outbox)
    return state.model_copy(update={"outbox": tuple(one for one in kept if one.sinks)})
