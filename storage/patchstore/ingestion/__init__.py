"""Writing a store: a folder at once, or one scene at a time, in steps that can run anywhere."""

from patchstore.ingestion.estimates import Estimate, estimate
from patchstore.ingestion.folder import (
    FolderPreview,
    FolderReport,
    Runner,
    SceneTask,
    Survey,
    ingest_folder,
    one_by_one,
    survey_folder,
)
from patchstore.ingestion.scene import SceneReport, Step, Steps, compare, create, ingest, steps

__all__ = ["Estimate", "FolderPreview", "FolderReport", "Runner", "SceneReport", "SceneTask", "Step", "Steps", "Survey",
           "compare", "create", "estimate", "ingest", "ingest_folder", "one_by_one", "steps", "survey_folder"]
