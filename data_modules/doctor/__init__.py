"""Finds what is wrong with a data set, all of it, before hours are spent on it."""

from data_modules.doctor.estimate import Assumed, Estimate
from data_modules.doctor.examination import Examination, examine
from data_modules.doctor.findings import Check, Finding, Findings, Severity

__all__ = ["Assumed", "Check", "Estimate", "Examination", "Finding", "Findings", "Severity", "examine"]
