"""The Python kernel: IPython's, with an environment per execution, and charts and tables as data."""

import math
import os
import sys
from contextlib import contextmanager
from functools import wraps
from importlib.machinery import PathFinder

# The directory of this file is not where programs look for their modules; the working directory is.
sys.path[0] = ""

from IPython.core.formatters import BaseFormatter  # noqa: E402
from IPython.display import display  # noqa: E402
from ipykernel.ipkernel import IPythonKernel  # noqa: E402
from ipykernel.kernelapp import IPKernelApp  # noqa: E402
from traitlets import Type, Unicode  # noqa: E402

#: Tables with more cells are shown as text alone.
MAX_CELLS = 200_000


def chart(figure):
    """What a figure of matplotlib shows, as data; nothing for a figure that is no chart."""
    from e2b_charts import chart_figure_to_chart

    try:
        found = chart_figure_to_chart(figure)
        return plain(found.model_dump()) if found else None
    except Exception:
        # It is still a picture: the library can't read every figure, such as boxes whose whiskers have no length.
        return None


def table(frame):
    """A data frame by columns."""
    if frame.size > MAX_CELLS:
        return None
    return {str(name): plain(frame.iloc[:, at].tolist()) for at, name in enumerate(frame.columns)}


def plain(value):
    """The same as JSON knows it: numbers of numpy become numbers, times texts."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


class DataFormatter(BaseFormatter):
    """Asks by the name of a type, so that a library is loaded by those alone who use it. (IPython's own register is no
    good here: its support for matplotlib forgets all that is registered for figures.)"""

    _return_type = dict
    types = {}

    def __call__(self, shown):
        for kind in type(shown).__mro__:
            if form := self.types.get((kind.__module__, kind.__qualname__)):
                return form(shown)
        return None


class TableFormatter(DataFormatter):
    format_type = Unicode("application/vnd.atoll.data+json")
    types = {("pandas", "DataFrame"): table, ("pandas.core.frame", "DataFrame"): table}


class ChartFormatter(DataFormatter):
    format_type = Unicode("application/vnd.atoll.chart+json")
    types = {("matplotlib.figure", "Figure"): chart}


@contextmanager
def environment(variables):
    """Sets variables for as long as it lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class PicturesShown:
    """Sees to it, once Pillow is loaded, that a picture which is saved as a file is shown too."""

    @staticmethod
    def find_spec(name, path, target=None):
        if name != "PIL.Image":
            return None
        specification = PathFinder.find_spec(name, path, target)
        if specification:
            execute = specification.loader.exec_module

            def exec_module(module):
                execute(module)
                module.Image.save = shown_when_saved(module.Image.save)

            specification.loader.exec_module = exec_module
        return specification


def shown_when_saved(save):
    kernel = os.getpid()

    @wraps(save)
    def saved(image, where, *arguments, **options):
        result = save(image, where, *arguments, **options)
        # Figures are shown as figures; and other processes have nobody to show anything to.
        by = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(where, (str, os.PathLike)) and os.getpid() == kernel and by.partition(".")[0] != "matplotlib":
            display(image)
        return result

    return saved


class Kernel(IPythonKernel):
    def __init__(self, **settings):
        super().__init__(**settings)
        display = self.shell.display_formatter
        for formatter in (TableFormatter(parent=display), ChartFormatter(parent=display)):
            display.formatters[formatter.format_type] = formatter

    async def do_execute(self, *arguments, cell_meta=None, **more):
        with environment((cell_meta or {}).get("env") or {}):
            return await super().do_execute(*arguments, cell_meta=cell_meta, **more)


class App(IPKernelApp):
    kernel_class = Type(Kernel)

    def init_iopub(self, context):
        # Output is never dropped because its reader is slow.
        context.sndhwm = 0
        super().init_iopub(context)


if __name__ == "__main__":
    sys.meta_path.insert(0, PicturesShown)
    # Tracebacks are read by programs: no colours. What people run later may still ask for them.
    App.launch_instance(argv=[*sys.argv[1:], "--InteractiveShell.colors=nocolor", "--HistoryManager.enabled=False"])
