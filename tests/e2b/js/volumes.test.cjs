// Volumes with their files, and secrets.
const assert = require('node:assert/strict')
const { test } = require('node:test')
const e2b = require('e2b')
const { all, make, unique } = require('./helper.cjs')

const { AuthenticationError, SandboxError, Secret, SecretError, SecretNotFoundError } = e2b
const { Volume, VolumeError, VolumeNotFoundError, VolumePathNotFoundError } = e2b

/** A volume that is gone after the test, when no sandbox has it any more. */
async function volumeOf(t) {
  const volume = await Volume.create(unique('js'))
  t.after(() => Volume.destroy(volume.volumeId))
  return volume
}

test('files without a sandbox and beside one', async (t) => {
  const volume = await volumeOf(t)
  assert.deepEqual(await volume.list('/'), [])
  const written = await volume.writeFile('a/file', 'text', { force: true, mode: 0o640 })
  assert.deepEqual(
    [written.path, written.type, written.size, written.mode, written.uid],
    ['/a/file', 'file', 4, 0o640, 1000],
  )
  assert.equal((await volume.makeDir('made', { uid: 0, gid: 0 })).type, 'directory')
  const { sandboxId, commands, kill } = await e2b.Sandbox.create({
    timeoutMs: 60_000,
    volumeMounts: { '/mnt/data': volume },
  })
  assert.ok(sandboxId && kill)
  assert.equal((await commands.run('cat /mnt/data/a/file; echo more >> /mnt/data/a/file')).stdout, 'text')
  assert.equal(await e2b.Sandbox.kill(sandboxId), true)
  assert.equal(await volume.readFile('a/file'), 'textmore\n')
  assert.equal(Buffer.from(await volume.readFile('a/file', { format: 'bytes' })).toString(), 'textmore\n')
  assert.equal((await volume.readFile('a/file', { format: 'blob' })).size, 9)
  let length = 0
  for await (const part of await volume.readFile('a/file', { format: 'stream' })) length += part.length
  assert.equal(length, 9)
  assert.deepEqual(
    (await volume.list('/', { depth: 2 })).map((entry) => entry.path),
    ['/a', '/a/file', '/made'],
  )
  assert.equal((await volume.updateMetadata('a/file', { mode: 0o600, uid: 0, gid: 0 })).mode, 0o600)
  const info = await volume.getInfo('a/file')
  assert.ok(info.mtime instanceof Date && info.uid === 0)
  const large = new Uint8Array(3 << 20).fill(7)
  assert.equal((await volume.writeFile('large', large.buffer)).size, large.length)
  assert.equal((await volume.writeFile('blob', new Blob([large]))).size, large.length)
  assert.equal((await volume.writeFile('stream', new Blob([large]).stream())).size, large.length)
  await volume.remove('a')
  assert.deepEqual([await volume.exists('a'), await volume.exists('made')], [false, true])
})

test('what can not be done with a volume is said', async (t) => {
  const volume = await volumeOf(t)
  for (const missing of [
    () => volume.readFile('none'),
    () => volume.getInfo('none'),
    () => volume.list('none'),
    () => volume.remove('none'),
    () => volume.updateMetadata('none', { mode: 0o600 }),
    () => volume.writeFile('no/such', 'x'),
    () => volume.makeDir('no/such'),
  ]) {
    await assert.rejects(missing, VolumePathNotFoundError)
  }
  await volume.makeDir('dir')
  await assert.rejects(volume.makeDir('dir'), VolumeError)
  await assert.rejects(volume.readFile('dir'), VolumeError)
  assert.ok((await Volume.list()).some((item) => item.volumeId === volume.volumeId))
  assert.equal((await Volume.getInfo(volume.volumeId)).name, volume.name)
  const again = await Volume.connect(volume.volumeId)
  assert.equal((await again.list('/'))[0].name, 'dir')
  const stranger = new Volume(volume.volumeId, volume.name, 'x', volume.domain)
  await assert.rejects(stranger.list('/'), AuthenticationError)
  const other = await Volume.create(unique('js'))
  assert.deepEqual([await Volume.destroy(other.volumeId), await Volume.destroy(other.volumeId)], [true, false])
  await assert.rejects(Volume.getInfo(other.volumeId), VolumeNotFoundError)
  await assert.rejects(Volume.connect(other.volumeId), VolumeNotFoundError)
  await assert.rejects(Volume.create('not/a/name'), VolumeError)
})

test('secrets are given to sandboxes and never shown', async (t) => {
  const name = unique('js-key')
  const made = await Secret.create(name, 'first', { metadata: { for: 'tests' } })
  t.after(() => Secret.destroy(name))
  assert.deepEqual([made.name, made.version, made.metadata], [name, 1, { for: 'tests' }])
  await assert.rejects(Secret.create(name, 'x'), SecretError)
  const sandbox = await make(t, { envs: { KEY: Secret.fill(name) } })
  assert.equal((await sandbox.commands.run('echo $KEY')).stdout, 'first\n')
  assert.equal((await Secret.update(name, 'second')).version, 2)
  assert.equal((await Secret.getInfo(made.secretId)).version, 2)
  assert.ok((await all(Secret.list({ limit: 1 }))).some((item) => item.name === name))
  assert.deepEqual(
    [await Secret.exists(name), await Secret.destroy(name), await Secret.destroy(name)],
    [true, true, false],
  )
  await assert.rejects(Secret.getInfo(name), SecretNotFoundError)
  await assert.rejects(Secret.update(name, 'x'), SecretNotFoundError)
  await assert.rejects(make(t, { envs: { KEY: Secret.fill(name) } }), SandboxError)
  const aws = Secret.iamToken({ audience: 'x', tokenType: 'JWT-SVID' })
  const box = await make(t, { iam: { tokens: { aws } } })
  assert.ok(await box.isRunning())
  const other = { audience: 'x', tokenType: 'X.509' }
  await assert.rejects(make(t, { iam: { tokens: { other } } }), /JWT-SVID/)
})
