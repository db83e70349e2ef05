"""What a run will take and send, said before it starts; and what cannot run, refused. Torch-free."""

from __future__ import annotations

from engine.federation.connect import with_sites
from engine.planning.plan import plan
from engine.planning.records import Plan, SitePlan, StagePlan, TrafficPlan

__all__ = ["Plan", "SitePlan", "StagePlan", "TrafficPlan", "plan", "with_sites"]
