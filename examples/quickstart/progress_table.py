"""The board of the quickstart: one bar a job in a terminal, one line a finished job elsewhere."""

import queue
import threading
from multiprocessing import Queue

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Board:
    """Draws what worker processes report on a queue.

    Args:
        console: where to draw.
        reports: carries (job, done, total, note), and None at the end.
    """

    def __init__(self, console: Console, reports: "Queue") -> None:
        self.console = console
        self.reports = reports
        self.tasks: dict[str, TaskID] = {}
        self.labels: dict[str, str] = {}
        self.progress = Progress(
            TextColumn("  {task.description:<46}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>4.0f}%"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Board":
        self.progress.start()
        self.listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.reports.put(None)
        self.listener.join(timeout=2)
        self.progress.stop()

    def begin(self, job: str, label: str, total: int | None) -> None:
        """A bar for a job; `total` None where its length is not known."""
        self.labels[job] = label
        self.tasks[job] = self.progress.add_task(label, total=total, start=False, note="")

    def step(self, job: str, done: int, total: int, note: str = "") -> None:
        """Moves a bar; the job's clock starts with its first step."""
        task = self.tasks[job]
        if not self.progress.tasks[self.progress.task_ids.index(task)].started:
            self.progress.start_task(task)
        self.progress.update(task, completed=done, total=total, note=note)

    def finish(self, job: str, note: str) -> None:
        """Fills a bar and says what came out."""
        task = self.tasks[job]
        total = self.progress.tasks[self.progress.task_ids.index(task)].total or 1
        self.step(job, int(total), int(total), note)
        self.progress.stop_task(task)
        if not self.console.is_terminal:
            self.console.print(f"  {self.labels[job]:<46} {note}", soft_wrap=True)

    def _listen(self) -> None:
        while True:
            try:
                report = self.reports.get(timeout=1)
            except queue.Empty:
                continue
            if report is None:
                return
            self.step(*report)
