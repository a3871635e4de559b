"""Moves between backends, while the collection serves."""

from ops.moving.dropping import drop_old
from ops.moving.mover import start, start_due, work_on
from ops.moving.planning import Plan, plan
from ops.moving.turning_back import cancel, rollback

__all__ = ["Plan", "cancel", "drop_old", "plan", "rollback", "start", "start_due", "work_on"]
