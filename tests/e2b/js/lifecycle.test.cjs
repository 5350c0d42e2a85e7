// A sandbox's life, through the control API.
const assert = require('node:assert/strict')
const { test } = require('node:test')
const { AuthenticationError, NotFoundError, Sandbox } = require('e2b')
const { all, make, unique, until } = require('./helper.cjs')

test('a new sandbox runs and knows itself', async (t) => {
  const metadata = { purpose: 'test', 'a b': 'c&d' }
  const sandbox = await make(t, { metadata, envs: { COLOUR: 'blue' } })
  assert.match(sandbox.sandboxId, /^i[a-z0-9]{20}$/)
  assert.equal(await sandbox.isRunning(), true)
  assert.equal((await sandbox.commands.run('echo $COLOUR')).stdout, 'blue\n')
  for (const info of [await sandbox.getInfo(), await Sandbox.getInfo(sandbox.sandboxId)]) {
    assert.equal(info.sandboxId, sandbox.sandboxId)
    assert.deepEqual(info.metadata, metadata)
    assert.equal(info.state, 'running')
    assert.equal(info.cpuCount, 1)
    assert.equal(info.memoryMB, 512)
    const left = info.endAt - Date.now()
    assert.ok(left > 60_000 && left < 125_000, `${left}`)
  }
})

test('lists find sandboxes by label and state, page by page', async (t) => {
  const run = unique('run & more=%20')
  const [first, second] = [await make(t, { metadata: { run } }), await make(t, { metadata: { run } })]
  await first.pause()
  const ids = async (query, rest = {}) =>
    (await all(Sandbox.list({ query: { metadata: { run }, ...query }, ...rest }))).map((item) => item.sandboxId)
  assert.deepEqual(await ids({ state: ['paused'] }), [first.sandboxId])
  assert.deepEqual(await ids({ state: ['running'] }), [second.sandboxId])
  assert.deepEqual(await ids({}, { limit: 1 }), [second.sandboxId, first.sandboxId])
})

test('a killed sandbox is gone', async (t) => {
  const sandbox = await make(t)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), true)
  assert.equal(await sandbox.kill(), false)
  assert.equal(await sandbox.isRunning(), false)
  await assert.rejects(Sandbox.connect(sandbox.sandboxId), NotFoundError)
  await assert.rejects(Sandbox.getInfo(sandbox.sandboxId), NotFoundError)
})

test('a timeout can be set, by the sandbox and by its id', async (t) => {
  const sandbox = await make(t)
  await sandbox.setTimeout(600_000)
  assert.ok((await sandbox.getInfo()).endAt - Date.now() > 500_000)
  await Sandbox.setTimeout(sandbox.sandboxId, 1000)
  await until('the sandbox to end', async () => !(await sandbox.isRunning()))
})

test('a pause keeps everything and a connect wakes', async (t) => {
  const sandbox = await make(t)
  await sandbox.files.write('kept', 'still here')
  const process = await sandbox.commands.run('sleep 1000', { background: true })
  const boot = await sandbox.files.read('/proc/sys/kernel/random/boot_id')
  assert.equal(await sandbox.pause(), true)
  assert.equal(await Sandbox.pause(sandbox.sandboxId), false)
  assert.equal((await sandbox.getInfo()).state, 'paused')
  const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 })
  assert.equal(await again.files.read('kept'), 'still here')
  assert.equal(await sandbox.files.read('/proc/sys/kernel/random/boot_id'), boot)
  assert.ok((await again.commands.list()).some((item) => item.pid === process.pid))
})

test('auto-pause and auto-resume', async (t) => {
  const sandbox = await make(t, { lifecycle: { onTimeout: 'pause', autoResume: true } })
  await sandbox.files.write('a', '1')
  await sandbox.setTimeout(1000)
  await until('the sandbox to pause', async () => (await sandbox.getInfo()).state === 'paused')
  assert.equal(await sandbox.files.read('a'), '1')
  assert.equal((await sandbox.getInfo()).state, 'running')
})

test('snapshots and forks', async (t) => {
  const parent = await make(t)
  await parent.files.write('state', 'of the parent')
  const name = unique('snap').toLowerCase()
  const snapshot = await parent.createSnapshot({ name })
  assert.ok(snapshot.names.some((one) => one.includes(name)))
  assert.deepEqual(
    (await all(parent.listSnapshots())).map((item) => item.snapshotId),
    [snapshot.snapshotId],
  )
  const child = await make(t, snapshot.snapshotId)
  assert.equal(await child.files.read('state'), 'of the parent')
  for (const fork of await parent.fork({ count: 2, timeoutMs: 60_000 })) {
    assert.ok(fork instanceof Sandbox, `${fork}`)
    assert.equal(await fork.files.read('state'), 'of the parent')
    assert.equal(await fork.kill(), true)
  }
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
})

test('metrics and the network', async (t) => {
  const sandbox = await make(t, { allowInternetAccess: false })
  const metrics = await sandbox.getMetrics()
  assert.equal(metrics.at(-1).memTotal, 512 << 20)
  const knock = "timeout 2 bash -c 'exec 3<>/dev/tcp/203.0.113.1/80' || echo closed"
  assert.equal((await sandbox.commands.run(knock)).stdout, 'closed\n')
  await sandbox.updateNetwork({ denyOut: ['0.0.0.0/0'] })
})

test('who has no key, and what is not there, is told', async () => {
  await assert.rejects(Sandbox.create({ apiKey: `e2b_${'0'.repeat(32)}` }), AuthenticationError)
  await assert.rejects(Sandbox.create('no-such-template'), /not found/)
  await assert.rejects(Sandbox.connect(`i${'0'.repeat(20)}`), NotFoundError)
})

test('a pause of the files alone starts anew', async (t) => {
  const sandbox = await make(t)
  await sandbox.files.write('kept', 'still here')
  const boot = await sandbox.files.read('/proc/sys/kernel/random/boot_id')
  assert.equal(await sandbox.pause({ keepMemory: false }), true)
  const again = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(await again.files.read('kept'), 'still here')
  assert.notEqual(await again.files.read('/proc/sys/kernel/random/boot_id'), boot)
})

test('a gateway that is not there is told, and leaves no sandbox', async () => {
  const metadata = { run: unique('gateway') }
  await assert.rejects(Sandbox.create({ mcp: { time: {} }, metadata, timeoutMs: 60_000 }), /Failed to start MCP gateway/)
  await until('the sandbox to be gone', async () => (await all(Sandbox.list({ query: { metadata } }))).length === 0)
})

test('how its ports are reached is kept and shown', async (t) => {
  const network = { maskRequestHost: 'own.example:${PORT}', httpsPorts: [8443] }
  const sandbox = await make(t, { network })
  const shown = (await sandbox.getInfo()).network
  assert.equal(shown.maskRequestHost, network.maskRequestHost)
  // The older SDK knows nothing of such ports.
  if (shown.httpsPorts !== undefined) assert.deepEqual(shown.httpsPorts, [8443])
  await assert.rejects(make(t, { network: { maskRequestHost: 'a/b' } }), /host name/)
})

test('whether it runs can be asked at any time of a pause', async (t) => {
  const sandbox = await make(t)
  const pausing = sandbox.pause()
  await until('the sandbox to be gone', async () => !(await sandbox.isRunning()))
  await pausing
  assert.equal(await sandbox.isRunning(), false)
})
