// Templates, built through the SDK from the platform's own base.
const assert = require('node:assert/strict')
const { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { join } = require('node:path')
const { test } = require('node:test')
const { BuildError, Sandbox, Template, TemplateError, waitForPort } = require('e2b')
const { make, unique, until } = require('./helper.cjs')

const named = () => unique('js').toLowerCase()

test('steps become a template', async (t) => {
  const context = mkdtempSync(join(tmpdir(), 'atoll-e2b-'))
  t.after(() => rmSync(context, { recursive: true }))
  mkdirSync(join(context, 'app', 'deep'), { recursive: true })
  writeFileSync(join(context, 'app', 'main.js'), 'main\n')
  writeFileSync(join(context, 'app', 'deep', 'data'), 'data\n')
  symlinkSync('main.js', join(context, 'app', 'link'))
  const name = named()
  const lines = []
  const template = Template({ fileContextPath: context })
    .fromTemplate('base')
    .runCmd(['whoami > who', `pwd > where # ${name}`])
    .setEnvs({ COLOUR: 'light blue' })
    .copy('app', 'app', { mode: 0o755 })
    .makeSymlink('app/main.js', 'to-main')
    .runCmd('id -un > root', { user: 'root' })
    .setWorkdir('/srv/work')
    .setStartCmd('python3 -m http.server 8123', waitForPort(8123))
  const built = await Template.build(template, name, {
    cpuCount: 2,
    memoryMB: 768,
    onBuildLogs: (entry) => lines.push(entry.message),
  })
  assert.match(built.buildId, /^[0-9a-f]{8}-[0-9a-f]{4}-8/)
  assert.ok(
    lines.some((line) => line.includes('RUN whoami')),
    lines.join('\n'),
  )
  const sandbox = await make(t, name)
  const said = await sandbox.commands.run('cd ~; cat who where root to-main app/deep/data; readlink app/link; echo $COLOUR')
  assert.equal(said.stdout, 'user\n/home/user\nroot\nmain\ndata\nmain.js\nlight blue\n')
  assert.equal((await sandbox.commands.run('pwd')).stdout, '/srv/work\n')
  assert.match((await sandbox.commands.run('curl -fsS http://127.0.0.1:8123/')).stdout, /Directory listing/)
  const info = await sandbox.getInfo()
  assert.deepEqual([info.cpuCount, info.memoryMB, info.name], [2, 768, name])
})

test('names, tags, and a build in the background', async () => {
  const name = named()
  assert.equal(await Template.exists(name), false)
  const info = await Template.buildInBackground(Template().fromBaseImage().runCmd('echo 1 > version'), name, {
    tags: ['v1', 'default'],
  })
  await until('the build', async () => (await Template.getBuildStatus(info)).status === 'ready')
  assert.equal(await Template.exists(name), true)
  assert.equal((await Template.assignTags(`${name}:v1`, ['stable'])).buildId, info.buildId)
  await Template.removeTags(name, 'v1')
  assert.deepEqual((await Template.getTags(name)).map((tag) => tag.tag).sort(), ['default', 'stable'])
  await assert.rejects(Template.assignTags(`${name}:v1`, 'x'), TemplateError)
  assert.equal(await Sandbox.deleteSnapshot(name), true)
  assert.equal(await Template.exists(name), false)
})

test('a build that fails says why', async () => {
  const name = named()
  const from = () => Template().fromTemplate('base')
  await assert.rejects(Template.build(from().runCmd('exit 7'), name), (error) => {
    assert.ok(error instanceof BuildError)
    assert.match(error.message, /exit status 7/)
    return true
  })
  await assert.rejects(Template.build(from().runCmd('whoami', { user: 'root123' }), name), /invalid username: 'root123'/)
  await assert.rejects(Template.build(Template().fromTemplate('no-such-template'), name), /not found/)
  await assert.rejects(Template.build(from(), 'Not A Name'), BuildError)
})
