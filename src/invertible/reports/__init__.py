"""Figures, tables and pages made from records."""

from invertible.reports.audit_page import audit_page
from invertible.reports.audit_table import audit_rich, audit_text

__all__ = ["audit_page", "audit_rich", "audit_text"]
