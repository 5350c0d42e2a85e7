// The JavaScript kernel: evaluates cells as a console does, so that `let` and `const` may be declared again and `await`
// stands anywhere. With the argument `typescript`, cells are TypeScript; with `deno` too, and they find the environment and
// the directory where Deno has them.
//
// Descriptor 3 carries lines of JSON: {"code", "env"} comes in; {"result", "main"}, {"error"} and {"done"} go out.
// What is printed goes to descriptors 1 and 2, as in any program.
'use strict'
const fs = require('node:fs')
const inspector = require('node:inspector')
const path = require('node:path')
const readline = require('node:readline')
const net = require('node:net')
const util = require('node:util')
const vm = require('node:vm')
const { createRequire } = require('node:module')
const { pathToFileURL } = require('node:url')
const { translated } = require('./translate.js')

const deno = process.argv[2] === 'deno'
const typescript = deno || process.argv[2] === 'typescript'
const socket = new net.Socket({ fd: 3 })
const session = new inspector.Session()
session.connect()
const say = (message) => void socket.write(JSON.stringify(message) + '\n')

// Cells find modules from the working directory, as scripts there would.
const here = () => pathToFileURL(path.join(process.cwd(), 'cell.js')).href
globalThis.require = (name) => createRequire(here())(name)
globalThis.display = Object.assign((value) => whenShown(value, (result) => say({ result })), {
  mime: (bundle) => say({ result: bundle }),
  html: (text) => say({ result: { 'text/html': text } }),
  markdown: (text) => say({ result: { 'text/markdown': text } }),
  svg: (text) => say({ result: { 'image/svg+xml': text } }),
  png: (base64) => say({ result: { 'image/png': base64 } }),
  jpeg: (base64) => say({ result: { 'image/jpeg': base64 } }),
  json: (value) => say({ result: { 'application/json': value } }),
})

// A cell's imports go through this: evaluated code has no way to load modules of its own.
const hidden = (name, value) => Object.defineProperty(globalThis, name, { value, enumerable: false })
hidden('__import', async (name) => {
  const { resolved } = await import('./loader.mjs')
  return import(await resolved(String(name).replace(/^npm:/, ''), here()))
})

if (deno) {
  hidden('Deno', {
    args: [],
    pid: process.pid,
    build: { os: 'linux' },
    cwd: () => process.cwd(),
    chdir: (directory) => process.chdir(directory),
    exit: (code) => process.exit(code),
    env: {
      get: (name) => process.env[name],
      set: (name, value) => void (process.env[name] = value),
      has: (name) => name in process.env,
      delete: (name) => void delete process.env[name],
      toObject: () => ({ ...process.env }),
    },
    readTextFile: (file) => fs.promises.readFile(file, 'utf8'),
    readTextFileSync: (file) => fs.readFileSync(file, 'utf8'),
    writeTextFile: (file, text) => fs.promises.writeFile(file, text),
    writeTextFileSync: (file, text) => fs.writeFileSync(file, text),
  })
}

/** What a value looks like, by mime type. */
function shown(value) {
  const bundle = { 'text/plain': typeof value === 'string' ? value : util.inspect(value) }
  const forms = { _toHtml: 'text/html', _toSvg: 'image/svg+xml', _toPng: 'image/png', _toJpeg: 'image/jpeg' }
  if (value !== null && typeof value === 'object') {
    if (typeof value._toMime === 'function') return value._toMime()
    for (const [method, mime] of Object.entries(forms)) {
      if (typeof value[method] === 'function') bundle[mime] = value[method]()
    }
  }
  return bundle
}

/** What a value shows of itself, in Deno's way: a function, which may take its time, that gives what it is by mime type. */
const DISPLAY = Symbol.for('Jupyter.display')

/** Passes on what a value looks like. What it returns is to be awaited if it is a promise. */
function whenShown(value, next) {
  const display = value === null || value === undefined ? undefined : value[DISPLAY]
  const result = typeof display === 'function' ? display.call(value) : shown(value)
  return result instanceof Promise ? result.then(next) : next(result)
}

// The inspector names values by ids; this function, called by it, gets the value itself.
let received
const takerId = new Promise((resolve, reject) => {
  globalThis.__taker = (value) => { received = value }
  session.post('Runtime.evaluate', { expression: '__taker' }, (problem, answer) => {
    delete globalThis.__taker
    if (problem) reject(problem)
    else resolve(answer.result.objectId)
  })
})

async function valueOf(remote) {
  if (remote.type === 'undefined') return undefined
  if (remote.subtype === 'null') return null
  if ('value' in remote) return remote.value
  const argument = remote.objectId ? { objectId: remote.objectId } : { unserializableValue: remote.unserializableValue }
  const call = { objectId: await takerId, functionDeclaration: 'function (value) { this(value) }', arguments: [argument] }
  await new Promise((resolve) => session.post('Runtime.callFunctionOn', call, resolve))
  const value = received
  received = undefined
  return value
}

const INTERRUPTED = { name: 'Interrupted', value: 'the execution was interrupted', traceback: '' }
let interrupt = () => {}
process.on('SIGINT', () => interrupt())
process.on('uncaughtException', (error) => process.stderr.write(`Uncaught ${described(error).traceback}\n`))

// A script of one call, because scripts are what `vm` watches over.
let begin
hidden('__begin', () => begin())
const began = new vm.Script('__begin()')

/** Evaluates, and can be interrupted: `vm` watches for SIGINT while code runs, `interrupt` while it waits. */
function evaluate(expression) {
  return new Promise((resolve, reject) => {
    interrupt = () => reject(INTERRUPTED)
    begin = () =>
      session.post('Runtime.evaluate', { expression, replMode: true, awaitPromise: true }, (problem, answer) =>
        problem ? reject(problem) : resolve(answer)
      )
    try {
      began.runInThisContext({ breakOnSigint: true })
    } catch (problem) {
      reject(problem.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? INTERRUPTED : problem)
    }
  }).finally(() => {
    interrupt = () => {}
  })
}

function described(thrown) {
  if (thrown instanceof Error || (thrown && typeof thrown.stack === 'string')) {
    return { name: String(thrown.name), value: String(thrown.message), traceback: own(thrown.stack) }
  }
  const text = typeof thrown === 'string' ? thrown : util.inspect(thrown)
  return { name: 'Error', value: text, traceback: `Uncaught ${text}` }
}

/** A stack without the frames of this kernel. */
const own = (stack) => String(stack).split(/\n +at (?:Session\.post \(node:inspector|[^\n]*\/interpreter\/kernels\/)/)[0]

async function execute(code) {
  const answer = await evaluate(translated(code, typescript))
  const value = await valueOf(answer.result)
  if (answer.exceptionDetails) throw value
  if (value !== undefined) await whenShown(value, (result) => say({ result, main: true }))
}

function setEnvironment(variables) {
  const before = Object.fromEntries(Object.keys(variables).map((name) => [name, process.env[name]]))
  Object.assign(process.env, variables)
  return () => {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
}

/** Ends when all that was printed so far has left the process. */
const written = (stream) => new Promise((resolve) => stream.write('', resolve))

async function main() {
  for await (const line of readline.createInterface({ input: socket, crlfDelay: Infinity })) {
    const { code, env } = JSON.parse(line)
    const restore = setEnvironment(env)
    try {
      await execute(code)
    } catch (problem) {
      say({ error: problem === INTERRUPTED ? problem : described(problem) })
    }
    restore()
    await Promise.all([written(process.stdout), written(process.stderr)])
    say({ done: true })
  }
  process.exit(0)
}
main()
