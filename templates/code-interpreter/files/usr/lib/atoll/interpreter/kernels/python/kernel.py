"""The Python kernel: IPython's, with an environment per execution, and charts and tables as data."""

import os
import sys
from contextlib import contextmanager

# The directory of this file is not where programs look for their modules; the working directory is.
sys.path[0] = ""

from IPython.core.formatters import BaseFormatter  # noqa: E402
from ipykernel.ipkernel import IPythonKernel  # noqa: E402
from ipykernel.kernelapp import IPKernelApp  # noqa: E402
from traitlets import ObjectName, Type, Unicode  # noqa: E402

#: Tables with more cells are shown as text alone.
MAX_CELLS = 200_000


def chart(figure):
    """What a figure of matplotlib shows, as data; nothing for a figure that is no chart."""
    from e2b_charts import chart_figure_to_chart

    try:
        found = chart_figure_to_chart(figure)
        return found.model_dump(mode="json") if found else None
    except Exception as problem:  # a figure that can't be read is still a picture
        print(f"the figure's data could not be read: {problem}", file=sys.stderr)
        return None


def table(frame):
    """A data frame by columns."""
    if frame.size > MAX_CELLS:
        return None
    return {str(name): [plain(value) for value in frame.iloc[:, at].tolist()] for at, name in enumerate(frame.columns)}


def plain(value):
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


class DataFormatter(BaseFormatter):
    format_type = Unicode("application/vnd.atoll.data+json")
    print_method = ObjectName("_repr_data_")
    _return_type = dict


class ChartFormatter(BaseFormatter):
    format_type = Unicode("application/vnd.atoll.chart+json")
    print_method = ObjectName("_repr_chart_")
    _return_type = dict


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


class Kernel(IPythonKernel):
    def __init__(self, **settings):
        super().__init__(**settings)
        display = self.shell.display_formatter
        for formatter in (DataFormatter(parent=display), ChartFormatter(parent=display)):
            display.formatters[formatter.format_type] = formatter
            display.active_types.append(formatter.format_type)
        display.formatters[DataFormatter.format_type.default_value].for_type_by_name("pandas", "DataFrame", table)
        display.formatters[DataFormatter.format_type.default_value].for_type_by_name(
            "pandas.core.frame", "DataFrame", table
        )
        display.formatters[ChartFormatter.format_type.default_value].for_type_by_name(
            "matplotlib.figure", "Figure", chart
        )

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
    # Tracebacks are read by programs: no colours. What people run later may still ask for them.
    App.launch_instance(argv=[*sys.argv[1:], "--InteractiveShell.colors=nocolor", "--HistoryManager.enabled=False"])
