"""Notes which public methods of the installed SDK the tests call, and how that ends; and says which were left out.

As a program, `calls.py FOLDER` reads what all processes of a run have noted there. A method that no test has seen
return fails it, and so does one that none has seen fail, but for those of which that can't be: LOCAL asks nobody
anything, FALSE answers False where others fail.
"""

import functools
import inspect
import json
import os
import pathlib
import sys
import uuid
from collections import defaultdict

# Classes with methods, exported or reached through one that is.
CLASSES = """
Sandbox AsyncSandbox SandboxBase SandboxApi Commands Pty Filesystem Git
CommandHandle AsyncCommandHandle AsyncCommandInputHandle WatchHandle AsyncWatchHandle
SandboxPaginator AsyncSandboxPaginator SnapshotPaginator AsyncSnapshotPaginator SecretPaginator AsyncSecretPaginator
Volume AsyncVolume Secret AsyncSecret SecretBase
Template AsyncTemplate TemplateBase TemplateBuilder ReadyCmd FileStreamReader AsyncFileStreamReader
""".split()
# Exported, and no more than data or settings.
DATA = """
E2B E2BClientParams ApiClient ApiParams ConnectionConfig VolumeConnectionConfig VolumeApiParams
McpServer GitHubMcpServer GitHubMcpServerConfig CopyItem
""".split()
LOCAL = """
SandboxBase.download_url SandboxBase.upload_url SandboxBase.get_host SandboxBase.get_mcp_url
SandboxApi.list Sandbox.list_snapshots AsyncSandbox.list_snapshots Sandbox.list_snapshots() AsyncSandbox.list_snapshots()
Secret.list AsyncSecret.list SecretBase.fill SecretBase.iam_token
CommandHandle.disconnect AsyncCommandHandle.disconnect AsyncWatchHandle.stop WatchHandle.stop
AsyncCommands.stream_input AsyncPty.stream_input
FileStreamReader.close AsyncFileStreamReader.aclose ReadyCmd.get_cmd
TemplateBase. TemplateBuilder.
""".split()
FALSE = "exists alias_exists is_running kill destroy delete_snapshot get_config remote_get close".split()
SKIPPED = ("e2b.api.client.", "e2b.envd.", "e2b.volume.client.")

noted = defaultdict(lambda: [0, 0])


def label(owner, name):
    """`Commands.run`, `AsyncCommands.run`."""
    is_async = any(part.endswith("_async") for part in owner.__module__.split("."))
    prefix = "Async" if is_async and not owner.__name__.startswith("Async") else ""
    return f"{prefix}{owner.__name__}.{name}"


def noting(function, named):
    """The same function, with a note of how each call ends."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call(*args, **kwargs):
            try:
                result = await function(*args, **kwargs)
            except Exception:
                noted[named][1] += 1
                raise
            noted[named][0] += 1
            return result
    else:

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                result = function(*args, **kwargs)
            except Exception:
                noted[named][1] += 1
                raise
            noted[named][0] += 1
            return result

    return call


def wrapped(holder, named):
    """A function in any of the holders that the SDK has for one."""
    if isinstance(holder, (classmethod, staticmethod)):
        return type(holder)(noting(holder.__func__, named))
    return noting(holder, named)


def public_methods():
    """Owner, name, what holds the method."""
    modules = [name for name in sys.modules if name.startswith("e2b.") and not name.startswith(SKIPPED)]
    owners = {}
    for module in modules:
        for name, owner in vars(sys.modules[module]).items():
            if inspect.isclass(owner) and owner.__module__ == module and name in CLASSES:
                owners[owner] = None
    for owner in owners:
        for name, holder in list(vars(owner).items()):
            two = type(holder).__name__ in ("DualMethod", "class_method_variant")
            if not name.startswith("_") and (two or inspect.isfunction(holder) or isinstance(holder, (classmethod, staticmethod))):
                yield owner, name, holder


def watch():
    """Begins to note. Answers all methods' labels. `x()` is `x` called of the class, where there is one of each."""
    labels = []
    for owner, name, holder in list(public_methods()):
        named = label(owner, name)
        labels.append(named)
        kind = type(holder).__name__
        if kind == "DualMethod":
            holder._static_fn = wrapped(holder._static_fn, f"{named}()")
            holder._instance_fn = wrapped(holder._instance_fn, named)
            labels.append(f"{named}()")
        elif kind == "class_method_variant":
            holder.method = wrapped(holder.method, named)
            of_class = next((base for base in owner.__mro__ if holder.class_method_name in vars(base)), None)
            inner = vars(of_class)[holder.class_method_name]
            # Of a name that two share (`beta_pause`), the first is noted.
            if not hasattr(inner.__func__, "__wrapped__"):
                setattr(of_class, holder.class_method_name, wrapped(inner, f"{named}()"))
                labels.append(f"{named}()")
        else:
            setattr(owner, name, wrapped(holder, named))
    return labels


def unknown():
    """Exported classes with methods that stand in none of the lists above."""
    import enum

    import e2b

    for name in e2b.__all__:
        owner = getattr(e2b, name)
        if not inspect.isclass(owner) or issubclass(owner, (Exception, enum.Enum, dict)) or name in CLASSES + DATA:
            continue
        if any(not name.startswith("_") and inspect.isfunction(holder) for name, holder in vars(owner).items()):
            yield name


def write(folder, labels):
    path = pathlib.Path(folder) / f"{os.getpid()}-{uuid.uuid4().hex}.json"
    path.write_text(json.dumps({"labels": labels, "noted": noted, "unknown": list(unknown())}))


def may_never_fail(named):
    owner, name = named.removesuffix("()").split(".")
    plain = owner.removeprefix("Async")
    local = {named, f"{plain}.{name}", f"{plain}."} & set(LOCAL)
    return bool(local) or name in FALSE


def missing(folder):
    labels, total, told = set(), defaultdict(lambda: [0, 0]), []
    for path in pathlib.Path(folder).glob("*.json"):
        run = json.loads(path.read_text())
        labels.update(run["labels"])
        told += [f"{name}: exported, and in no list of calls.py" for name in run["unknown"]]
        for named, (returned, raised) in run["noted"].items():
            total[named][0] += returned
            total[named][1] += raised
    assert labels, f"nothing was noted in {folder}"
    for named in sorted(labels):
        returned, raised = total[named]
        if not returned:
            told.append(f"{named}: no test has seen it return")
        if not raised and not may_never_fail(named):
            told.append(f"{named}: no test has seen it fail")
    return sorted(set(told)), len(labels)


if __name__ == "__main__":
    told, count = missing(sys.argv[1])
    print("\n".join(told) if told else f"all {count} public methods were called, with success and in vain")
    sys.exit(bool(told))
