// Notes which public methods of the installed SDK the tests call, and how that ends; and, as a program with a folder of
// such notes, says which were left out: those that no test has seen return, and those that none has seen fail. What is
// public is what the SDK's own declarations say.
const { mkdirSync, readFileSync, readdirSync, writeFileSync } = require('node:fs')
const { dirname, join } = require('node:path')
const e2b = require('e2b')

const CLASSES =
  `Sandbox SandboxApi Commands Pty Filesystem Git CommandHandle WatchHandle SandboxPaginator SnapshotPaginator
  SecretPaginator Volume Secret TemplateBase ReadyCmd Paginator`.split(/\s+/)
// Ask nobody anything, so that they can't fail; the second row answers false or nothing where others fail.
const NEVER_FAIL =
  `getHost getMcpUrl uploadUrl downloadUrl listSnapshots fill iamToken disconnect stop getCmd toJSON toDockerfile
  kill exists aliasExists destroy deleteSnapshot isRunning getConfig remoteGet`.split(/\s+/)
const LISTS = ['Sandbox.static.list', 'Secret.static.list']
const FOLDER = process.env.ATOLL_E2B_CALLS
const noted = {}

/** `Sandbox.static.create`, `Volume.list`, as the declarations have them. */
function declared() {
  const text = readFileSync(join(dirname(require.resolve('e2b')), 'index.d.ts'), 'utf8').replace(
    /\/\*\*[\s\S]*?\*\//g,
    '',
  )
  const labels = new Set()
  for (const [, name, body] of text.matchAll(/^declare (?:abstract )?class (\w+)[^{]*\{\n([\s\S]*?)^\}/gm)) {
    if (!CLASSES.includes(name)) continue
    for (const [, kind, method] of body.matchAll(/^ {2}((?:static )?)(\w+)(?:<[^(]*)?\(/gm)) {
      if (method !== 'constructor') labels.add(`${name}.${kind ? 'static.' : ''}${method}`)
    }
  }
  return [...labels]
}

function note(label, index) {
  noted[label] ??= [0, 0]
  noted[label][index] += 1
}

const seen = new Set()
/** Wraps the methods of a class that is not one of the known ones yet. */
function watch(owner) {
  if (typeof owner !== 'function' || seen.has(owner) || owner === Object || owner === Function.prototype) return
  seen.add(owner)
  watch(Object.getPrototypeOf(owner))
  const name = owner.name.replace(/^_/, '').replace(/\$\d+$/, '')
  const named = name === 'Template' ? 'TemplateBase' : name
  if (!CLASSES.includes(named)) return
  for (const [holder, kind] of [
    [owner, 'static.'],
    [owner.prototype, ''],
  ]) {
    for (const method of Object.getOwnPropertyNames(holder)) {
      const { value, writable } = Object.getOwnPropertyDescriptor(holder, method)
      if (typeof value !== 'function' || !writable || method === 'constructor') continue
      holder[method] = noting(value, `${named}.${kind}${method}`)
    }
  }
}

/** Classes that are not exported are met through what methods return. */
function meet(result) {
  if (typeof result !== 'object' || result === null) return result
  watch(result.constructor)
  for (const part of ['files', 'commands', 'pty', 'git']) if (part in result) watch(result[part]?.constructor)
  return result
}

function noting(method, label) {
  return function (...args) {
    try {
      const result = method.apply(this, args)
      if (typeof result?.then !== 'function') {
        note(label, 0)
        return meet(result)
      }
      const told = result.then(
        (value) => {
          note(label, 0)
          return meet(value)
        },
        (error) => {
          note(label, 1)
          throw error
        },
      )
      return told
    } catch (error) {
      note(label, 1)
      throw error
    }
  }
}

if (FOLDER && require.main !== module) {
  for (const one of Object.values(e2b)) if (CLASSES.includes(one?.name)) watch(one)
  watch(e2b.TemplateBase)
  process.on('exit', () => {
    mkdirSync(FOLDER, { recursive: true })
    writeFileSync(join(FOLDER, `${process.pid}.js.json`), JSON.stringify(noted))
  })
}

if (require.main === module) {
  const total = {}
  for (const file of readdirSync(process.argv[2])) {
    for (const [label, counts] of Object.entries(JSON.parse(readFileSync(join(process.argv[2], file), 'utf8')))) {
      counts.forEach((count, index) => ((total[label] ??= [0, 0])[index] += count))
    }
  }
  const told = []
  const labels = declared()
  if (labels.length < 80) told.push(`only ${labels.length} methods were found in the SDK's declarations`)
  for (const label of labels) {
    // What a class has from the one above it is noted there, and so is what it overrides without declaring it anew.
    const method = label.split('.').at(-1)
    const kind = label.includes('.static.') ? 'static.' : ''
    const also = { Sandbox: 'SandboxApi', SandboxApi: 'Sandbox', Paginator: 'SandboxPaginator' }[label.split('.')[0]]
    const [returned, failed] = total[label] ?? total[`${also}.${kind}${method}`] ?? [0, 0]
    if (!returned) told.push(`${label}: no test has seen it return`)
    const local =
      NEVER_FAIL.includes(method) || LISTS.includes(label) || /^(TemplateBase\.[^s]|TemplateBase\.s[ek])/.test(label)
    if (!failed && !local) told.push(`${label}: no test has seen it fail`)
  }
  console.log(
    told.length ? told.join('\n') : `all ${labels.length} public methods were called, with success and in vain`,
  )
  process.exit(told.length ? 1 : 0)
}
