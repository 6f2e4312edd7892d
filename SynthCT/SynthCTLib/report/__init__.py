"""Figures and the HTML report of a finished job."""

from SynthCTLib.report.content import Kind, ReportContent
from SynthCTLib.report.html import write_report

__all__ = ["Kind", "ReportContent", "write_report"]
