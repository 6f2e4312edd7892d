"""Figures and the HTML report of a finished job."""

from SynthCTLib.report.content import Kind, ReportContent
from SynthCTLib.report.html import write_report
from SynthCTLib.report.pet import PetReportContent, write_pet_report

__all__ = ["Kind", "PetReportContent", "ReportContent", "write_pet_report", "write_report"]
