// The methods of the JavaScript SDK that run code.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Sandbox } from '@e2b/code-interpreter'

let sandbox
before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 300_000 })
})
after(() => sandbox?.kill())

test('values, output, results and errors', async () => {
  const seen = []
  const note = (kind) => (said) => void seen.push([kind, said.line ?? said.text ?? said.name])
  const callbacks = { onStdout: note('out'), onStderr: note('err'), onResult: note('result'), onError: note('error') }
  const execution = await sandbox.runCode("import sys; print('o'); print('e', file=sys.stderr); display(1); 'two'", callbacks)
  assert.equal(execution.text, 'two')
  assert.deepEqual(execution.logs, { stdout: ['o\n'], stderr: ['e\n'] })
  assert.equal(execution.results.length, 2)
  assert.equal(execution.executionCount, 1)
  const failed = await sandbox.runCode('1/0', callbacks)
  assert.equal(failed.error.name, 'ZeroDivisionError')
  assert.match(failed.error.traceback, /division by zero/)
  assert.deepEqual(seen.map(([kind]) => kind).sort(), ['err', 'error', 'out', 'result', 'result'])
})

test('languages and environments', async () => {
  assert.equal((await sandbox.runCode('const a = await 1; a + 1', { language: 'js' })).text, '2')
  assert.equal((await sandbox.runCode('let n: number = 3; n', { language: 'ts' })).text, '3')
  assert.equal((await sandbox.runCode('1 + 1', { language: 'java' })).text, '2')
  assert.equal((await sandbox.runCode('1 + 1', { language: 'r' })).results[0].text, '[1] 2')
  assert.deepEqual((await sandbox.runCode('echo $A', { language: 'bash', envs: { A: 'b' } })).logs.stdout, ['b\n'])
  assert.equal((await sandbox.runCode("import os; os.getenv('A', 'none')")).text, 'none')
  await assert.rejects(sandbox.runCode('1', { language: 'cobol' }), /400/)
})

test('a chart', async () => {
  const { results } = await sandbox.runCode("import matplotlib.pyplot as plt\nplt.bar(['a'], [1]); plt.title('T'); plt.show()")
  assert.equal(results[0].chart.type, 'bar')
  assert.equal(results[0].chart.title, 'T')
  assert.ok(results[0].png.startsWith('iVBOR'))
})

test('contexts', async () => {
  const context = await sandbox.createCodeContext({ cwd: '/tmp', language: 'python' })
  assert.equal(context.cwd, '/tmp')
  await sandbox.runCode('x = 1', { context })
  assert.equal((await sandbox.runCode('x', { context })).text, '1')
  assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id))
  await sandbox.restartCodeContext(context)
  assert.equal((await sandbox.runCode('x', { context })).error.name, 'NameError')
  await sandbox.removeCodeContext(context.id)
  await assert.rejects(sandbox.runCode('x', { context }), /not found/)
  await assert.rejects(sandbox.removeCodeContext(context), /not found/)
  await assert.rejects(sandbox.runCode('1', { context, language: 'python' }), /both/)
})

test('a timeout interrupts the code and leaves the context', async () => {
  await sandbox.runCode('kept = 1')
  await assert.rejects(sandbox.runCode('import time\nwhile True: time.sleep(.1)', { timeoutMs: 1000 }), { name: 'TimeoutError' })
  assert.equal((await sandbox.runCode('kept')).text, '1')
})
