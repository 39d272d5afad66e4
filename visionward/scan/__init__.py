"""Scanning: judging folders and tables of images, on one machine or on many."""

from visionward.scan.arrow_tables import result_schema
from visionward.scan.options import ScanOptions
from visionward.scan.worker import Worker

__all__ = ["ScanOptions", "Worker", "result_schema"]
