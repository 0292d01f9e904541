"""REST for other programs, under /api/v1: what the command line can do, with the same words and keys."""

from fastapi import APIRouter

from medd_web.api import annotations, jobs, models, reference, results, studies

router = APIRouter(prefix="/api/v1")
for part in (results, studies, annotations, models, jobs, reference):
    router.include_router(part.router)
