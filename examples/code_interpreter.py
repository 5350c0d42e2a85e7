"""A session of the code interpreter: what one cell defines, the next one knows. Writes chart.png beside itself."""

import base64
import pathlib

from e2b_code_interpreter import Sandbox

with Sandbox.create() as sandbox:
    sandbox.run_code("import pandas as pd\nsales = pd.DataFrame({'month': [1, 2, 3, 4], 'sold': [12, 30, 21, 44]})")
    total = sandbox.run_code("int(sales['sold'].sum())")
    print("sold in all:", total.text)

    drawn = sandbox.run_code(
        "import matplotlib.pyplot as plt\n"
        "plt.bar(sales['month'], sales['sold'])\n"
        "plt.title('Sales')\n"
        "plt.xlabel('month')\n"
        "plt.show()"
    )
    picture = next(result for result in drawn.results if result.png)
    path = pathlib.Path("chart.png")
    path.write_bytes(base64.b64decode(picture.png))
    print("chart:", picture.chart.title, "in", path)

    wrong = sandbox.run_code("sales['bought']")
    print("an error is a result, too:", wrong.error.name)

    shell = sandbox.run_code("echo $((6 * 7)) in bash", language="bash")
    print("".join(shell.logs.stdout).strip())
