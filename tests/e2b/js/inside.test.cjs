// What runs and lies in a sandbox: commands, terminals, files, watches, git.
const assert = require('node:assert/strict')
const { test } = require('node:test')
const { CommandExitError, InvalidArgumentError, NotFoundError, Sandbox, Template, TimeoutError } = require('e2b')
const { make, unique, until } = require('./helper.cjs')

test('commands answer with output and code', async (t) => {
  const { commands } = await make(t)
  const done = await commands.run('echo out; echo err >&2')
  assert.deepEqual([done.stdout, done.stderr, done.exitCode], ['out\n', 'err\n', 0])
  await assert.rejects(commands.run('echo half; exit 3'), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.deepEqual([error.exitCode, error.stdout], [3, 'half\n'])
    return true
  })
  assert.equal((await commands.run('whoami; pwd', { user: 'root', cwd: '/tmp' })).stdout, 'root\n/tmp\n')
  assert.equal((await commands.run('echo $A', { envs: { A: 'é' } })).stdout, 'é\n')
  await assert.rejects(commands.run('true', { cwd: '/no/such/place' }), InvalidArgumentError)
  await assert.rejects(commands.run('sleep 60', { timeoutMs: 1000 }), TimeoutError)
})

test('commands in the background take input, are found, and are killed', async (t) => {
  const { commands } = await make(t)
  let seen = ''
  const cat = await commands.run('cat', { background: true, stdin: true, onStdout: (text) => void (seen += text) })
  await commands.sendStdin(cat.pid, 'hello\n')
  await until('an echo', () => seen === 'hello\n')
  await commands.closeStdin(cat.pid)
  assert.equal((await cat.wait()).stdout, 'hello\n')
  const sleep = await commands.run('sleep 1000', { background: true })
  const again = await commands.connect(sleep.pid)
  assert.ok((await commands.list()).some((item) => item.pid === sleep.pid))
  assert.equal(await again.kill(), true)
  await assert.rejects(sleep.wait(), CommandExitError)
  assert.equal(await commands.kill(sleep.pid), false)
  await assert.rejects(commands.connect(999_999), NotFoundError)
})

test('a terminal shows what is typed', async (t) => {
  const { pty } = await make(t)
  let shown = ''
  const onData = (data) => void (shown += Buffer.from(data).toString())
  const terminal = await pty.create({ cols: 80, rows: 24, onData, timeoutMs: 30_000 })
  await pty.resize(terminal.pid, { cols: 100, rows: 40 })
  await pty.sendInput(terminal.pid, Buffer.from('stty size; exit\n'))
  await terminal.wait()
  assert.match(shown, /40 100/)
  assert.equal(await pty.kill(terminal.pid), false)
})

test('two hundred terminals at once', { timeout: 240_000 }, async (t) => {
  const name = unique('roomy')
  await Template.build(Template().fromTemplate('base'), name, { memoryMB: 2048 })
  t.after(() => Sandbox.deleteSnapshot(name))
  const { pty } = await make(t, name, { timeoutMs: 240_000 })
  const open = async (number) => {
    const terminal = { number, shown: '' }
    const onData = (data) => void (terminal.shown += Buffer.from(data).toString())
    terminal.handle = await pty.create({ cols: 80, rows: 24, onData, timeoutMs: 200_000 })
    return terminal
  }
  const opened = await Promise.all(Array.from({ length: 200 }, (_, number) => open(number)))
  assert.equal(new Set(opened.map(({ handle }) => handle.pid)).size, 200)
  const say = ({ handle, number }) => pty.sendInput(handle.pid, Buffer.from(`echo $((${number}+1000000)); exit\n`))
  await Promise.all(opened.map(say))
  for (const terminal of opened) {
    await terminal.handle.wait()
    assert.match(terminal.shown, new RegExp(`${terminal.number + 1_000_000}`))
  }
})

test('files come back as they were', async (t) => {
  const { files } = await make(t)
  const data = new Uint8Array(1 << 20).map((_, index) => index % 251)
  assert.equal((await files.write('deep/in/data.bin', data.buffer)).path, '/home/user/deep/in/data.bin')
  assert.deepEqual(await files.read('deep/in/data.bin', { format: 'bytes' }), data)
  assert.equal((await files.read('deep/in/data.bin', { format: 'blob' })).size, data.length)
  let length = 0
  for await (const part of await files.read('deep/in/data.bin', { format: 'stream' })) length += part.length
  assert.equal(length, data.length)
  const written = await files.writeFiles([
    { path: 'one', data: '1' },
    { path: 'two', data: '' },
  ])
  assert.deepEqual(
    written.map(({ name, path, type }) => [name, path, type]),
    [
      ['one', '/home/user/one', 'file'],
      ['two', '/home/user/two', 'file'],
    ],
  )
  assert.deepEqual(
    (await files.list('deep', { depth: 2 })).map((entry) => entry.name),
    ['in', 'data.bin'],
  )
  const info = await files.getInfo('deep/in/data.bin')
  assert.deepEqual([info.type, info.size, info.owner], ['file', data.length, 'user'])
  assert.deepEqual([await files.makeDir('new'), await files.makeDir('new')], [true, false])
  assert.equal((await files.rename('one', 'new/one')).path, '/home/user/new/one')
  assert.deepEqual([await files.exists('new/one'), await files.exists('one')], [true, false])
  await files.remove('new')
  await assert.rejects(files.read('new/one'), NotFoundError)
  await assert.rejects(files.list('new'), NotFoundError)
  await assert.rejects(files.getInfo('new'), NotFoundError)
  await assert.rejects(files.rename('new', 'x'), NotFoundError)
})

test('a watch sees an upload as three events', async (t) => {
  const { files } = await make(t)
  await files.makeDir('watched')
  const seen = []
  const watch = await files.watchDir('watched', (event) => void seen.push(event.type))
  await files.write('watched/new', 'content')
  await until('three events', () => seen.length >= 3)
  assert.deepEqual(seen, ['create', 'chmod', 'write'])
  await watch.stop()
  await assert.rejects(
    files.watchDir('missing', () => {}),
    NotFoundError,
  )
})

test('signed addresses open one file, for a while', async (t) => {
  const sandbox = await make(t)
  const upload = await sandbox.uploadUrl('signed.txt', { user: 'user', useSignatureExpiration: 60 })
  const form = new FormData()
  form.append('file', new Blob(['by signature']), 'signed.txt')
  assert.equal((await fetch(upload, { method: 'POST', body: form })).status, 200)
  const address = await sandbox.downloadUrl('signed.txt', { user: 'user', useSignatureExpiration: 60 })
  assert.equal(await (await fetch(address)).text(), 'by signature')
  const over = await sandbox.downloadUrl('signed.txt', { user: 'user', useSignatureExpiration: -60 })
  const refused = await fetch(over)
  assert.equal(refused.status, 401)
  assert.deepEqual(await refused.json(), { code: 401, message: 'signature is already expired' })
})

test('git works', async (t) => {
  const { files, git } = await make(t)
  await git.init('repo', { initialBranch: 'main' })
  await git.configureUser('Ada', 'ada@example.com')
  await files.write('repo/file', 'text')
  await git.add('repo')
  await git.commit('repo', 'first')
  assert.equal((await git.status('repo')).isClean, true)
  await git.createBranch('repo', 'other')
  assert.equal((await git.branches('repo')).currentBranch, 'other')
})
