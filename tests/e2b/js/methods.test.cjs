// What the other files leave out, so that each public method is called with success and in vain; `calls.cjs` knows.
const assert = require('node:assert/strict')
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { join } = require('node:path')
const { test } = require('node:test')
const e2b = require('e2b')
const { make, until } = require('./helper.cjs')

const { AuthenticationError, NotFoundError, Sandbox, SandboxError, Secret, Template, Volume } = e2b
const WRONG = { apiKey: `e2b_${'0'.repeat(32)}` }
const SIZE = { cols: 80, rows: 24 }

test('every method says that the sandbox is gone', async (t) => {
  const sandbox = await make(t)
  const { commands, files, git, pty } = sandbox
  const handle = await commands.run('sleep 1000', { background: true, stdin: true })
  const terminal = await pty.create({ ...SIZE, onData: () => {} })
  const ended = terminal.wait().catch((error) => error)
  assert.equal(await sandbox.kill(), true)
  const calls = {
    run: () => commands.run('true'),
    list: () => commands.list(),
    connect: () => commands.connect(handle.pid),
    sendStdin: () => commands.sendStdin(handle.pid, 'x'),
    closeStdin: () => commands.closeStdin(handle.pid),
    'handle.sendStdin': () => handle.sendStdin('x'),
    'handle.closeStdin': () => handle.closeStdin(),
    'handle.wait': () => handle.wait(),
    'pty.create': () => pty.create({ ...SIZE, onData: () => {} }),
    'pty.connect': () => pty.connect(terminal.pid),
    'pty.resize': () => pty.resize(terminal.pid, SIZE),
    'pty.sendInput': () => pty.sendInput(terminal.pid, Buffer.from('x')),
    'files.exists': () => files.exists('x'),
    'files.getInfo': () => files.getInfo('x'),
    'files.list': () => files.list('.'),
    'files.makeDir': () => files.makeDir('x'),
    'files.read': () => files.read('x'),
    'files.remove': () => files.remove('x'),
    'files.rename': () => files.rename('x', 'y'),
    'files.watchDir': () => files.watchDir('.', () => {}),
    'files.write': () => files.write('x', 'x'),
    'files.writeFiles': () => files.writeFiles([{ path: 'x', data: 'x' }]),
    'git.add': () => git.add('r'),
    'git.branches': () => git.branches('r'),
    'git.checkoutBranch': () => git.checkoutBranch('r', 'b'),
    'git.clone': () => git.clone('https://example.test/r'),
    'git.commit': () => git.commit('r', 'm'),
    'git.configureUser': () => git.configureUser('Ada', 'ada@example.com'),
    'git.createBranch': () => git.createBranch('r', 'b'),
    'git.dangerouslyAuthenticate': () => git.dangerouslyAuthenticate({ username: 'u', password: 'p' }),
    'git.deleteBranch': () => git.deleteBranch('r', 'b'),
    'git.init': () => git.init('r'),
    'git.pull': () => git.pull('r', { remote: 'origin', branch: 'main' }),
    'git.push': () => git.push('r', { remote: 'origin', branch: 'main' }),
    'git.remoteAdd': () => git.remoteAdd('r', 'n', 'https://example.test/r'),
    'git.reset': () => git.reset('r'),
    'git.restore': () => git.restore('r', { paths: ['x'] }),
    'git.setConfig': () => git.setConfig('k', 'v'),
    'git.status': () => git.status('r'),
    'sandbox.connect': () => sandbox.connect(),
    'sandbox.createSnapshot': () => sandbox.createSnapshot(),
    'sandbox.fork': () => sandbox.fork(),
    'sandbox.getInfo': () => sandbox.getInfo(),
    'sandbox.getMetrics': () => sandbox.getMetrics(),
    'sandbox.pause': () => sandbox.pause(),
    'sandbox.betaPause': () => sandbox.betaPause(),
    'sandbox.setTimeout': () => sandbox.setTimeout(1000),
    'sandbox.updateNetwork': () => sandbox.updateNetwork({}),
  }
  const wrong = []
  for (const [name, call] of Object.entries(calls)) {
    const told = await call().then(
      () => 'nothing',
      (error) => `${error.name}: ${error.message}`,
    )
    if (!/not found|killed|end of life|not running|doesn't exist/i.test(told)) wrong.push(`${name}: ${told}`)
  }
  assert.deepEqual(wrong, [])
  assert.ok((await ended) instanceof Error)
  assert.deepEqual([await sandbox.kill(), await sandbox.isRunning()], [false, false])
})

test('every method that takes a key asks for a right one', async (t) => {
  const { sandboxId: id } = await make(t)
  const [name, recipe] = ['no-such', Template().fromTemplate('base')]
  const build = { templateId: 'x', buildId: 'x', name: 'x', alias: 'x', tags: [] }
  for (const call of [
    () => Sandbox.create(WRONG),
    () => Sandbox.connect(id, WRONG),
    () => Sandbox.kill(id, WRONG),
    () => Sandbox.getInfo(id, WRONG),
    () => Sandbox.getFullInfo(id, WRONG),
    () => Sandbox.getMetrics(id, WRONG),
    () => Sandbox.setTimeout(id, 1000, WRONG),
    () => Sandbox.pause(id, WRONG),
    () => Sandbox.betaPause(id, WRONG),
    () => Sandbox.fork(id, WRONG),
    () => Sandbox.createSnapshot(id, WRONG),
    () => Sandbox.deleteSnapshot(name, WRONG),
    () => Sandbox.updateNetwork(id, {}, WRONG),
    () => Sandbox.list(WRONG).nextItems(),
    () => Sandbox.listSnapshots(WRONG).nextItems(),
    () => Secret.list(WRONG).nextItems(),
    () => Secret.create(name, 'x', WRONG),
    () => Secret.update(name, 'x', WRONG),
    () => Secret.getInfo(name, WRONG),
    () => Secret.exists(name, WRONG),
    () => Secret.destroy(name, WRONG),
    () => Volume.create(name, WRONG),
    () => Volume.connect(name, WRONG),
    () => Volume.getInfo(name, WRONG),
    () => Volume.list(WRONG),
    () => Volume.destroy(name, WRONG),
    () => Template.build(recipe, name, WRONG),
    () => Template.buildInBackground(recipe, name, WRONG),
    () => Template.getBuildStatus(build, WRONG),
    () => Template.exists(name, WRONG),
    () => Template.aliasExists(name, WRONG),
    () => Template.assignTags(`${name}:a`, 'b', WRONG),
    () => Template.removeTags(name, 'b', WRONG),
    () => Template.getTags(name, WRONG),
  ]) {
    await assert.rejects(call, AuthenticationError, `${call}`)
  }
})

test('what is called of the class is what is called of the sandbox', async (t) => {
  const sandbox = await make(t)
  const id = sandbox.sandboxId
  assert.equal((await Sandbox.getFullInfo(id)).sandboxId, id)
  assert.ok(Array.isArray(await Sandbox.getMetrics(id)))
  await Sandbox.updateNetwork(id, { denyOut: ['0.0.0.0/0'] })
  assert.deepEqual([await Sandbox.betaPause(id), await sandbox.betaPause()], [true, false])
  await sandbox.connect({ timeoutMs: 100_000 })
  assert.deepEqual([await Sandbox.pause(id), await sandbox.pause()], [true, false])
  await Sandbox.connect(id, { timeoutMs: 100_000 })
  const snapshot = await Sandbox.createSnapshot(id)
  assert.equal((await Sandbox.listSnapshots({ sandboxId: id }).nextItems())[0].snapshotId, snapshot.snapshotId)
  assert.equal(await sandbox.constructor.deleteSnapshot(snapshot.snapshotId), true)
  const [fork] = await Sandbox.fork(id, { timeoutMs: 60_000 })
  assert.equal(await fork.kill(), true)
  await assert.rejects(sandbox.getMcpToken(), NotFoundError)
  await sandbox.files.write('/etc/mcp-gateway/.token', 'of the gateway', { user: 'root' })
  assert.equal(await sandbox.getMcpToken(), 'of the gateway')
  assert.ok(sandbox.getHost(80).startsWith(`80-${id}.`) && sandbox.getMcpUrl().endsWith('/mcp'))
})

test('handles of programs and terminals', async (t) => {
  const { commands, pty } = await make(t)
  const cat = await commands.run('cat', { background: true, stdin: true })
  await cat.sendStdin('one\n')
  await cat.closeStdin()
  assert.equal((await cat.wait()).stdout, 'one\n')
  await assert.rejects(commands.sendStdin(cat.pid, 'x'), NotFoundError)
  await assert.rejects(commands.closeStdin(cat.pid), NotFoundError)
  const sleep = await commands.run('sleep 1000', { background: true })
  await sleep.disconnect()
  assert.ok((await commands.list()).some((item) => item.pid === sleep.pid))
  assert.equal(await (await commands.connect(sleep.pid)).kill(), true)
  let shown = ''
  const terminal = await pty.create({ ...SIZE, onData: () => {} })
  const again = await pty.connect(terminal.pid, { onData: (data) => void (shown += Buffer.from(data)) })
  await pty.sendInput(terminal.pid, Buffer.from('echo $((6*7))\n'))
  await until('an answer', () => shown.includes('42'))
  assert.equal(await pty.kill(terminal.pid), true)
  await assert.rejects(again.wait(), SandboxError)
  for (const call of [
    () => pty.connect(999_999, { onData: () => {} }),
    () => pty.resize(999_999, SIZE),
    () => pty.sendInput(999_999, Buffer.from('x')),
  ]) {
    await assert.rejects(call, NotFoundError)
  }
})

test('git from the first commit to a pull', async (t) => {
  const { files, git } = await make(t)
  await git.configureUser('Ada', 'ada@example.com')
  await git.setConfig('init.defaultBranch', 'main')
  assert.deepEqual([await git.getConfig('init.defaultBranch'), await git.getConfig('none.none')], ['main', undefined])
  await git.init('origin.git', { bare: true, initialBranch: 'main' })
  await git.clone('/home/user/origin.git', { path: 'work' })
  await files.write('work/file', 'one')
  await git.add('work')
  await git.commit('work', 'first')
  await git.push('work', { remote: 'origin', branch: 'main' })
  await git.clone('/home/user/origin.git', { path: 'other' })
  await git.createBranch('work', 'side')
  await git.checkoutBranch('work', 'main')
  await git.deleteBranch('work', 'side')
  await files.write('work/file', 'two')
  await git.restore('work', { paths: ['file'] })
  assert.equal(await files.read('work/file'), 'one')
  await files.write('work/file', 'three')
  await git.reset('work', { mode: 'hard' })
  await files.write('work/file', 'four')
  await git.add('work')
  await git.commit('work', 'second')
  await git.push('work', { remote: 'origin', branch: 'main' })
  await git.pull('other', { remote: 'origin', branch: 'main' })
  assert.equal(await files.read('other/file'), 'four')
  await git.remoteAdd('work', 'mirror', 'https://example.test/m.git')
  assert.equal(await git.remoteGet('work', 'mirror'), 'https://example.test/m.git')
  await git.dangerouslyAuthenticate({ username: 'ada', password: 'secret', host: 'example.test' })
})

test('recipes in every form', async (t) => {
  const context = mkdtempSync(join(tmpdir(), 'atoll-e2b-'))
  t.after(() => rmSync(context, { recursive: true }))
  writeFileSync(join(context, 'Dockerfile'), 'FROM debian\nRUN true\n')
  const of = () => Template({ fileContextPath: context })
  for (const method of ['Alpine', 'Arch', 'Bun', 'Debian', 'Fedora', 'Node', 'Python', 'Ubuntu']) {
    assert.match(Template.toDockerfile(of()[`from${method}Image`]()), new RegExp(`FROM .*${method}`, 'i'))
  }
  of().fromAWSRegistry('x.dkr.ecr.eu-west-1.amazonaws.com/y', {
    accessKeyId: 'a',
    secretAccessKey: 'b',
    region: 'eu-west-1',
  })
  of().fromGCPRegistry('eu.gcr.io/x/y', { serviceAccountJSON: { type: 'service_account' } })
  assert.match(Template.toDockerfile(of().fromDockerfile(join(context, 'Dockerfile'))), /FROM debian/)
  const recipe = of()
    .skipCache()
    .fromImage('debian:12')
    .aptInstall('jq')
    .bunInstall('left-pad')
    .npmInstall('left-pad', { g: true })
    .pipInstall('requests')
    .gitClone('https://example.test/r.git', '/srv/r', { branch: 'main' })
    .copyItems([{ src: 'Dockerfile', dest: '/srv/' }])
    .makeDir('/srv/made')
    .rename('/srv/made', '/srv/renamed')
    .remove('/srv/renamed')
    .setUser('user')
  assert.match(
    Template.toDockerfile(recipe),
    /apt-get install[\s\S]*bun[\s\S]*npm install[\s\S]*pip install[\s\S]*git clone/,
  )
  assert.match(await Template.toJSON(recipe.setReadyCmd(e2b.waitForTimeout(1000)), false), /sleep 1/)
  of().fromTemplate('mcp-gateway').addMcpServer('time')
  of().fromTemplate('devcontainer').betaDevContainerPrebuild('/w').betaSetDevContainerStart('/w')
  assert.equal(e2b.waitForTimeout(1000).getCmd(), 'sleep 1')
})
