"""Which language is run by what. R and Java are there unless the template was made without them; `deno` is TypeScript on
Node, with what programs ask of Deno most."""

import shutil
from pathlib import Path

from .jupyter import JupyterKernel
from .kernel import Kernel
from .pipe import BashPipe, JavaPipe, JsonPipe, PipeKernel

HOME = Path(__file__).resolve().parent.parent
KERNELS = HOME / "kernels"
ALIASES = {"py": "python", "python3": "python", "js": "javascript", "node": "javascript", "ts": "typescript", "tslab": "typescript", "sh": "bash", "shell": "bash"}
#: Contexts that are there from the start.
AT_START = ("python", "javascript")
DEFAULT = "python"

_JAVASCRIPT = ["node", "--experimental-import-meta-resolve", "--no-warnings", str(KERNELS / "javascript/kernel.js")]

_JAVA = [
    "java",
    # Small and quick to start: one person's code, one execution at a time.
    *("-XX:+UseSerialGC", "-XX:MaxRAMPercentage=50", "-Xshare:auto", "-Djava.awt.headless=true"),
    *("-Dfile.encoding=UTF-8", "-Dsun.stdout.encoding=UTF-8", "-Dsun.stderr.encoding=UTF-8"),
    # Descriptor 3, and the environment, which Java shows but doesn't let change.
    *("--add-opens", "java.base/java.io=ALL-UNNAMED", "--add-opens", "java.base/java.util=ALL-UNNAMED"),
    *("-cp", str(KERNELS / "java/classes"), "atoll.Kernel"),
]


def canonical(language: str) -> str:
    language = language.strip().lower()
    return ALIASES.get(language, language)


def available() -> list[str]:
    languages = ["python", "javascript", "typescript", "deno", "bash"]
    if shutil.which("R"):
        languages.append("r")
    if (KERNELS / "java/classes").is_dir():
        languages.append("java")
    return languages


def kernel(language: str, cwd: str) -> Kernel:
    """A kernel for one of the available languages, not started yet."""
    match language:
        case "python":
            return JupyterKernel("python", cwd, environment_in_metadata=True)
        case "r":
            return JupyterKernel("r", cwd)
        case "javascript":
            return PipeKernel(_JAVASCRIPT, cwd, JsonPipe)
        case "typescript" | "deno":
            return PipeKernel([*_JAVASCRIPT, language], cwd, JsonPipe)
        case "java":
            return PipeKernel(_JAVA, cwd, JavaPipe)
        case "bash":
            return PipeKernel(["bash", str(KERNELS / "bash/kernel.sh")], cwd, BashPipe)
    raise ValueError(language)
