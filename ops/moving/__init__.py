"""Moves between backends, while the collection serves."""

from ops.moving.dropping import drop_old
from ops.moving.mover import start, work_on
from ops.moving.planning import Plan, plan
from ops.moving.turning_back import cancel, rollback

__all__ = ["Plan", "cancel", "drop_old", "plan", "rollback", "start", "work_on"]
