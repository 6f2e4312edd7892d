"""Part 2: what is to be made, by which model, on which device, with which options."""

from dataclasses import dataclass, field

from SynthCTSlicer import library
from SynthCTSlicer.signals import PanelError, Signal


@dataclass
class TaskState:
    """The choices; ``problem`` says why there are none."""

    task: str = "mr-to-ct"
    model: str = ""
    device: str = "auto"
    registration: str = "rigid"
    bias_correction: bool = True
    remove_table: bool = True
    head_field_mm: float = 170.0
    convention: str = ""
    anatomy: str = ""
    tasks: tuple = ()
    models: tuple = ()
    conventions: tuple = ()
    problem: str = ""
    cards: dict = field(default_factory=dict)


class TaskLogic:
    """Offers the tasks and models that the library's registry lists."""

    def __init__(self):
        self.state = TaskState()
        self.changed = Signal()
        self._known = {}

    def refresh(self):
        """Ask the library what there is, even when it was asked before."""
        self._known.clear()
        self.reload()

    def reload(self):
        """Offer what there is; the library is asked once."""
        state = self.state
        try:
            state.tasks = library.task_names()
            state.conventions, default = library.conventions()
            state.convention = state.convention or default
            state.problem = ""
        except PanelError as error:
            state.problem = str(error)
            state.tasks = state.models = state.conventions = ()
            self.changed()
            return
        if state.task not in state.tasks:
            state.task = state.tasks[0]
        self._list_models()

    def choose_task(self, task):
        """Choose a task; its default model with it."""
        if task != self.state.task:
            self.state.task, self.state.model = task, ""
            self._list_models()

    def choose_model(self, name):
        """Choose a model of the task."""
        if name != self.state.model:
            self.state.model = name
            self.changed()

    def set(self, name, value):
        """Set an option."""
        if getattr(self.state, name) != value:
            setattr(self.state, name, value)
            self.changed()

    @property
    def card(self):
        """The card of the chosen model, HTML."""
        return next((m.card for m in self.state.models if m.name == self.state.model), "")

    def smaller_model(self, name):
        """The largest model of the task with less weights than the named one; "" for none."""
        models = {m.name: m.weights_bytes for m in self.state.models}
        smaller = [n for n, size in models.items() if size < models.get(name, 0)]
        return max(smaller, key=models.get, default="")

    def options(self):
        """The options of a job request, plain values."""
        state = self.state
        options = {
            "registration": state.registration,
            "bias_correction": state.bias_correction,
            "remove_table": state.remove_table,
            "head_field_mm": state.head_field_mm,
            "device": state.device,
        }
        if state.problem == "":
            options["models_dir"] = str(library.models_dir())
        if state.convention:
            options["convention"] = state.convention
        if state.anatomy:
            options["anatomy"] = state.anatomy
        return options

    def _list_models(self):
        state = self.state
        try:
            if state.task not in self._known:
                self._known[state.task] = library.models(state.task)
            state.models = self._known[state.task]
            state.problem = ""
        except PanelError as error:
            state.models, state.problem = (), str(error)
        names = [m.name for m in state.models]
        if state.model not in names:
            state.model = names[0] if names else ""
        self.changed()
