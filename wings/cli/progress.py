"""Progress of measurements: bars in a terminal, lines elsewhere."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# Finished bars that stay in a terminal, so that the one that moves is on the screen.
_MOST_FINISHED = 8


class ProgressBars:
    """One bar a measurement in a terminal; elsewhere one line a finished measurement."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("  {task.description:<34}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )

    def __enter__(self) -> "ProgressBars":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Moves a bar; the first call starts it."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done)
        finished = [task.id for task in self.progress.tasks if task.finished]
        for task in finished[:-_MOST_FINISHED]:
            self.progress.update(task, visible=False)
        if done == total and not self.console.is_terminal:
            self.console.print(f"  {name:<34} {total:,}", markup=False)
